"""Using a trained model: prompts in the image frame in, masks in the image frame out."""
