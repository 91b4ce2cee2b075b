"""Import path of the original for `SamAutomaticMaskGenerator`."""

from mobile_sam.inference.automatic_masks import SamAutomaticMaskGenerator

__all__ = ["SamAutomaticMaskGenerator"]
