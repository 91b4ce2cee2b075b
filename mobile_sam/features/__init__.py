"""Teacher features on disk: computed once, shared by runs and projects, verified on each read."""
