"""Images and masks: files and formats, the index, and samples for training and validation."""
