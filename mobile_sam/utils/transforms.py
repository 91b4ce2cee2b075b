"""Where the original has `ResizeLongestSide`."""

from mobile_sam.inference.resizing import ResizeLongestSide

__all__ = ["ResizeLongestSide"]
