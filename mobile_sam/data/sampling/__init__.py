"""Samples for training and validation: images with masks and prompts of some of their segments."""
