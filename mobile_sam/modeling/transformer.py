"""Import path of the original for `TwoWayTransformer`."""

from mobile_sam.models.two_way import TwoWayTransformer

__all__ = ["TwoWayTransformer"]
