"""Settings of runs that take seconds, and what must be there before they are trained."""

import shutil
from pathlib import Path
from typing import Any

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import needs_features
from mobile_sam.config.teachers import teacher_configs
from mobile_sam.data.index.build import index_dataset
from mobile_sam.extraction.compute import extract_features
from mobile_sam.extraction.plan import finish_extraction, plan_extraction
from mobile_sam.paths import RunPaths

DISTIL_ONLY = {"focal": 0.0, "dice": 0.0, "iou": 0.0}
TWO_STAGES: list[dict[str, object]] = [
    {"start_epoch": 0, "end_epoch": 2, "distillation": True, "loss_weights": DISTIL_ONLY},
    {"start_epoch": 2, "end_epoch": 4, "distillation": False},
]


def directories(scenes: Path) -> dict[str, str]:
    return {
        f"{split}_{short}_dir": str(scenes / split / name)
        for split in ("train", "val")
        for short, name in (("img", "image"), ("mask", "mask"))
    }


def tiny_settings(scenes: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of seconds: a 64-pixel student, a random teacher, one epoch."""
    return {
        "run_name": "tiny",
        "output_dir": str(output_dir),
        **directories(scenes),
        "model_type": "tiny_sam",
        "checkpoint": None,
        "teacher_checkpoint": "random",
        "teacher_model_type": "tiny_teacher_vit",
        "img_size": 64,
        "num_epochs": 1,
        "batch_size": 4,
        "objects_per_image": 2,
        "learning_rate": 1e-3,
        "val_images": 2,
        **changes,
    }


def run_on_own_images(scenes: Path, directory: Path, **changes: Any) -> tuple[Path, RunConfig]:
    """Copy the images, which a test may then change, and return them with a run that distils."""
    data = Path(shutil.copytree(scenes, directory / "data"))
    settings = tiny_settings(data, directory / "results", use_distill=True, **changes)
    return data, parse_config(settings, "test")


def prepare(config: RunConfig) -> None:
    """Index the data set and extract what the run needs, unless that is done."""
    paths = RunPaths(config)
    if not paths.index.is_file():
        index_dataset(paths.sources, paths.index, config.data)
    if needs_features(config):
        for teacher in teacher_configs(config):
            plan_extraction(teacher)
            extract_features(teacher)
            finish_extraction(teacher)
