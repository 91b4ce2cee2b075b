"""Metrics of predictions. The package exports those of single masks.

The modules of statistics and of detections are not imported here, because importing scipy's
statistics takes a second.
"""

from mobile_sam.metrics.boundary import boundary_f, boundary_iou
from mobile_sam.metrics.overlap import dice, iou

__all__ = ["boundary_f", "boundary_iou", "dice", "iou"]
