"""Extraction: the teacher looks at each image to learn from once, in jobs that own whole shards."""

from mobile_sam.extraction.compute import extract_features
from mobile_sam.extraction.passes import batch_size, teacher_pass
from mobile_sam.extraction.plan import finish_extraction, plan_extraction

__all__ = [
    "batch_size",
    "extract_features",
    "finish_extraction",
    "plan_extraction",
    "teacher_pass",
]
