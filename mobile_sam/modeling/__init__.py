"""Import path of the original for the parts of the model, which are in `mobile_sam.models`."""

from mobile_sam.modeling.image_encoder import ImageEncoderViT
from mobile_sam.modeling.mask_decoder import MaskDecoder
from mobile_sam.modeling.prompt_encoder import PromptEncoder
from mobile_sam.modeling.sam import Sam
from mobile_sam.modeling.tiny_vit_sam import TinyViT
from mobile_sam.modeling.transformer import TwoWayTransformer

__all__ = [
    "ImageEncoderViT",
    "MaskDecoder",
    "PromptEncoder",
    "Sam",
    "TinyViT",
    "TwoWayTransformer",
]
