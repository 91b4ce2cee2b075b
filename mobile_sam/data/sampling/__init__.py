"""Samples for training: images with the masks and prompts of some of their segments."""
