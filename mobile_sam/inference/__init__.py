"""Inference with a trained model: the predictor, automatic masks, and folders of images."""
