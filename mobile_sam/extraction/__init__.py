"""Extraction: computes teacher features once for each image, in jobs that own whole shards."""
