"""Small data sets and runs that every test may use."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from mobile_sam.config import RunConfig, parse_config
from mobile_sam.data.dataset import Sample
from mobile_sam.data.indexing import index_dataset
from mobile_sam.data.synthetic import scene, write_scenes
from mobile_sam.extraction.compute import extract_features
from mobile_sam.extraction.plan import finish_extraction, plan_extraction
from mobile_sam.layout import RunPaths, needs_features
from mobile_sam.teachers import teacher_configs

ROOT = Path(__file__).parents[1]
DISTIL_ONLY = {"focal": 0.0, "dice": 0.0, "iou": 0.0}
TWO_STAGES = [
    {"start_epoch": 0, "end_epoch": 2, "distillation": True, "loss_weights": DISTIL_ONLY},
    {"start_epoch": 2, "end_epoch": 4, "distillation": False},
]

torch.set_num_threads(1)
# As the package sets it: some tests import onnxruntime before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# A loaded machine is no failure, and CI fails only on what it would fail on again.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of ten training and three validation images, 64 pixels wide."""
    directory = tmp_path_factory.mktemp("scenes")
    write_scenes(directory / "train", 10, 64, seed=0)
    write_scenes(directory / "val", 3, 64, seed=1)
    return directory


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of five images without masks, 64 pixels wide, that are in no other data set."""
    directory = tmp_path_factory.mktemp("unlabelled")
    write_scenes(directory, 5, 64, seed=7)
    return directory / "image"


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


@pytest.fixture
def tiny(scenes: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes a tiny run, with its index and teacher features in place."""

    def make(**changes: Any) -> RunConfig:
        config = parse_config(tiny_settings(scenes, tmp_path, **changes), "test")
        prepare(config)
        return config

    return make


def prepare(config: RunConfig) -> None:
    """Index the data set and extract what the run needs, unless that is done."""
    paths = RunPaths(config)
    if not paths.index.is_file():
        index_dataset(paths.sources, paths.index, config.data, config.seed)
    if needs_features(config):
        for teacher in teacher_configs(config):
            plan_extraction(teacher)
            extract_features(teacher)
            finish_extraction(teacher)


def verb(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m mobile_sam` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mobile_sam", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def snakemake(directory: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the project's own workflow with its results below `directory`."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
            *("--directory", str(directory), "--cores", "2", *map(str, arguments)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
    )


def same_samples(first: Sample, second: Sample) -> bool:
    """Whether two samples are equal, bit for bit."""
    plain, other = (sample._replace(teacher={})._asdict() for sample in (first, second))
    tensors = all(torch.equal(plain[name], other[name]) for name in plain if name != "teacher")
    return tensors and equal_states(first.teacher, second.teacher)


def equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def draw_image(path: Path, width: int, height: int, seed: int) -> Path:
    """Write the upper part of a drawn scene as an image; returns its path."""
    pixels, _ = scene(width, np.random.default_rng(seed))
    Image.fromarray(pixels[:height]).save(path)
    return path
