"""Extraction: the teacher looks at each image to learn from once, in jobs that own whole shards."""
