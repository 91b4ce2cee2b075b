"""Import path of the original for `ImageEncoderViT`."""

from mobile_sam.models.sam_vit import SamViTEncoder as ImageEncoderViT

__all__ = ["ImageEncoderViT"]
