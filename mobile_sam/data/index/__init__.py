"""The index of a data set: one row for each segment; only images that changed are read again."""
