"""Evaluation of models: masks predicted from fixed prompts, and computational cost."""
