"""Small data sets and runs that every test may use."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.system.gpus import VISIBLE
from tests.helpers.gpu_lists import Lists
from tests.helpers.runs import prepare, tiny_settings

torch.set_num_threads(1)
# Kernels for AVX-512 and AMX round otherwise for other layouts, so that logits at a threshold fall
# to other sides here than in the original code; set before the first kernel is chosen.
for name, instructions in (
    ("ONEDNN_MAX_CPU_ISA", "AVX2"),
    ("ATEN_CPU_CAPABILITY", "avx2"),
    ("MKL_ENABLE_INSTRUCTIONS", "AVX2"),
):
    os.environ.setdefault(name, instructions)
# As the package sets it: some tests import onnxruntime before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# A loaded machine is no failure, and CI fails only on what it would fail on again.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


# Seconds for a test and its fixtures, where pyproject.toml gives too few.
TIMEOUTS = {"long": 7200, "slurm": 3600, "faults": 3600, "package": 3600}
WORKFLOW_TIMEOUT = 1800  # a fixture of these runs a whole workflow
# Begun first, so that both workers end together: directories with files that take long.
FIRST = ("workflow", "docs", "training", "oracle", "extraction", "cli", "export", "evaluation")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give long tests a timeout of their own, and begin with directories that take long."""
    for item in items:
        seconds = [time for name, time in TIMEOUTS.items() if item.get_closest_marker(name)]
        if item.path.parent.name == "workflow":
            seconds.append(WORKFLOW_TIMEOUT)
        if seconds and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(max(seconds)))
    ranks = {name: rank for rank, name in enumerate(FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.parent.name, len(FIRST)))


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


@pytest.fixture
def tiny(scenes: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes a tiny run, with its index and teacher features in place.

    A run with a name has a project of its own, so that it shares no stage with others.
    """

    def make(**changes: Any) -> RunConfig:
        project = {"project_name": changes["run_name"]} if "run_name" in changes else {}
        config = parse_config(tiny_settings(scenes, tmp_path, **project | changes), "test")
        prepare(config)
        return config

    return make


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lists:
    """Sets what `nvidia-smi -L` prints, and with which status it ends."""
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    directory = tmp_path / "bin"
    directory.mkdir()

    def lists(*lines: str, status: int = 0) -> None:
        script = directory / "nvidia-smi"
        text = "\n".join(lines)
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")

    return lists
