"""Store of teacher features: computed once, shared by runs and projects, verified on each read."""
