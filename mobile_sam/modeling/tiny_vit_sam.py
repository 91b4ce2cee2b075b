"""Import path of the original for `TinyViT`."""

from mobile_sam.models.tiny_vit import TinyViTEncoder as TinyViT

__all__ = ["TinyViT"]
