"""Fine-tune and distil MobileSAM in cached, resumable stages.

Public names are imported on first use, so that `import mobile_sam` does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobile_sam.config.load import load_settings
    from mobile_sam.data.index.build import index_dataset
    from mobile_sam.evaluation.validate_run import validate
    from mobile_sam.inference.automatic_masks import SamAutomaticMaskGenerator, automatic_masks
    from mobile_sam.inference.loading import (
        build_sam,
        build_sam_vit_b,
        build_sam_vit_h,
        build_sam_vit_l,
        build_sam_vit_t,
        load_run,
        sam_model_registry,
    )
    from mobile_sam.inference.predictor import SamPredictor
    from mobile_sam.inference.proposals import AutomaticOptions
    from mobile_sam.inference.sa1b import write_sa1b
    from mobile_sam.report.write import write_report
    from mobile_sam.training.run import train_run

    __version__: str

__all__ = [
    "AutomaticOptions",
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "automatic_masks",
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "build_sam_vit_t",
    "index_dataset",
    "load_run",
    "load_settings",
    "sam_model_registry",
    "train_run",
    "validate",
    "write_report",
    "write_sa1b",
]

_HOMES = {
    "automatic_masks": "inference.automatic_masks",
    "AutomaticOptions": "inference.proposals",
    "build_sam": "inference.loading",
    "build_sam_vit_b": "inference.loading",
    "build_sam_vit_h": "inference.loading",
    "build_sam_vit_l": "inference.loading",
    "build_sam_vit_t": "inference.loading",
    "index_dataset": "data.index.build",
    "load_run": "inference.loading",
    "load_settings": "config.load",
    "sam_model_registry": "inference.loading",
    "SamAutomaticMaskGenerator": "inference.automatic_masks",
    "SamPredictor": "inference.predictor",
    "train_run": "training.run",
    "validate": "evaluation.validate_run",
    "write_report": "report.write",
    "write_sa1b": "inference.sa1b",
}

# Modules that `import mobile_sam` loads in the original.
_MODULES = ("automatic_mask_generator", "modeling", "predictor", "utils")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("mobile_sam")
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
