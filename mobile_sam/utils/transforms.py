"""Import path of the original for `ResizeLongestSide`."""

from mobile_sam.inference.predictor import ResizeLongestSide

__all__ = ["ResizeLongestSide"]
