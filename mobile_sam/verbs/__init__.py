"""What the command line can do: one verb for each step of the workflow, and for using a model."""
