"""Import path of the original for its builders and `sam_model_registry`.

`mobile_sam.build_sam` is a function, too: as in the original, importing this module leaves it one.
"""

import sys
from pathlib import Path
from types import ModuleType

from mobile_sam.inference.loading import (
    build_sam,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
    build_sam_vit_t,
    sam_model_registry,
)
from mobile_sam.models.sam import Sam

__all__ = [
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "build_sam_vit_t",
    "sam_model_registry",
]


class _BuildSam(ModuleType):
    def __call__(self, checkpoint: str | Path | None = None, img_size: int | None = None) -> Sam:
        return build_sam(checkpoint, img_size)


# The import system gives the package this module under the function's name.
sys.modules[__name__].__class__ = _BuildSam
