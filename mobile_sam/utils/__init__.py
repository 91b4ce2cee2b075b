"""Import paths of the original, for code that was written for it."""

from mobile_sam.utils import amg, transforms

__all__ = ["amg", "transforms"]
