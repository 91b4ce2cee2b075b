"""The index of a data set: one row for each segment, read in parallel, and only what is new."""
