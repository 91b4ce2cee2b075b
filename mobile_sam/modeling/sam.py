"""Import path of the original for `Sam`."""

from mobile_sam.models.sam import Sam

__all__ = ["Sam"]
