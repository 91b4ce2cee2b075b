"""What a model is worth: its masks by fixed prompts, and its cost."""
