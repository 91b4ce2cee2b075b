"""Import path of the original for `MaskDecoder`."""

from mobile_sam.models.mask_decoder import MaskDecoder

__all__ = ["MaskDecoder"]
