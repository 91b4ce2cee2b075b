"""Commands of `python -m mobile_sam`: the steps of the workflow, and commands to use a model."""
