"""Import path of the original for `LayerNorm2d`."""

from mobile_sam.models.neck import LayerNorm2d

__all__ = ["LayerNorm2d"]
