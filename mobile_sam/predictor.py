"""Import path of the original for `SamPredictor`."""

from mobile_sam.inference.predictor import SamPredictor

__all__ = ["SamPredictor"]
