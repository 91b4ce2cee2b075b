"""Fine-tune and distil MobileSAM in cached, resumable stages."""
