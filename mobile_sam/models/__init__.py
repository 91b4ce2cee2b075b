"""The models: image encoders on timm, SAM's prompt encoder and mask decoder, and their weights."""

from mobile_sam.models.quick_import import quick_import

with quick_import():
    import timm  # noqa: F401
