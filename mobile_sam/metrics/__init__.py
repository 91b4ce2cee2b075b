"""Measures of predictions; those of single masks are here, all others in the modules.

The modules of statistics and of detections are not imported here, because scipy's statistics take
a second to import.
"""

from mobile_sam.metrics.boundary import boundary_f, boundary_iou
from mobile_sam.metrics.overlap import dice, iou

__all__ = ["boundary_f", "boundary_iou", "dice", "iou"]
