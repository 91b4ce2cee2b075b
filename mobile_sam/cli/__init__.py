"""Commands of `python -m mobile_sam`: one for each step of the workflow, others to use a model."""
