"""The models: image encoders on timm, SAM's prompt encoder and mask decoder, and their weights."""
