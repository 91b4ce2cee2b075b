"""Measures of predictions; those of single masks are here, all others in the modules."""

from mobile_sam.metrics.boundary import boundary_f, boundary_iou
from mobile_sam.metrics.overlap import dice, iou

__all__ = ["boundary_f", "boundary_iou", "dice", "iou"]
