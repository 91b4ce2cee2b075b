"""Settings of a run: their keys and meanings, and how they are read from files."""
