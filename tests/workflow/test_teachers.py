"""A run of several teachers, as a user would start it."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mobile_sam.config.checkpoints import checkpoint_names
from mobile_sam.config.load import resolve
from mobile_sam.config.run import RunConfig
from mobile_sam.paths import RunPaths
from tests.helpers.commands import snakemake

SECOND = {"checkpoint": "random", "model_type": "tiny_teacher_vit", "feature_level": 1}


def run(directory: Path, *more: dict[str, Any], **changes: Any) -> tuple[RunConfig, str]:
    """The settings of a run with `more` teachers under `overlay=tiny`, and its `run=`."""
    path = directory / "my.json"
    path.write_text(json.dumps({"use_distill": True, "extra_teachers": more, **changes}))
    return resolve(str(path), "tiny", {}).named[0], f"run={path}"


def rules(directory: Path, *arguments: str) -> list[str]:
    """Names of the rules in a dry run."""
    result = snakemake(directory, "-n", "--config", *arguments)
    assert result.returncode == 0, result.stderr
    return re.findall(r"^(?:local)?rule (\w+):", result.stdout + result.stderr, re.M)


def test_each_teacher_is_extracted_once_and_a_run_is_trained_first(tmp_path: Path) -> None:
    """Two runs that share a teacher, which is the first of one and the second of the other."""
    run(tmp_path, SECOND, {"checkpoint": "run:demo_teacher", "feature_level": 1})
    names = rules(tmp_path, f"run={tmp_path / 'my.json'},distill_then_finetune", "overlay=tiny")
    assert sum(name.startswith("plan_features_") for name in names) == 3
    assert sum(name.startswith("extract_") for name in names) == 3
    assert "train_demo_teacher_tiny_00_finetune" in names
    assert {f"validate_my_tiny_{name}" for name in ("teacher", "teacher_2", "teacher_3")} <= set(
        names
    )


def test_a_run_that_only_a_second_teacher_asks_for_is_trained(tmp_path: Path) -> None:
    _, name = run(tmp_path, {"checkpoint": "run:demo_teacher", "feature_level": 1})
    given = ["teacher_checkpoint=random", "teacher_model_type=tiny_teacher_vit"]
    names = rules(tmp_path, name, "overlay=tiny", *given)
    assert "train_demo_teacher_tiny_00_finetune" in names
    assert sum(name.startswith("extract_") for name in names) == 2
    online = rules(tmp_path, name, "overlay=tiny", "teacher_features=online", *given)
    assert "train_demo_teacher_tiny_00_finetune" in online
    assert not any(name.startswith("extract_") for name in online)


@pytest.mark.long
def test_a_run_of_two_teachers_goes_to_its_report(tmp_path: Path) -> None:
    config, name = run(tmp_path, SECOND, num_epochs=1)
    result = snakemake(tmp_path, "--config", name, "overlay=tiny")
    assert result.returncode == 0, result.stderr[-3000:]
    paths = RunPaths(config)
    table = pd.read_csv(tmp_path / paths.report / "summary.csv")
    shown = list(table["checkpoint"].unique())
    # A best epoch that is the last one has no row of its own.
    assert shown == [what for what in checkpoint_names(config) if what in shown]
    assert all(what.endswith("_best") for what in set(checkpoint_names(config)) - set(shown))
    assert checkpoint_names(config)[-2:] == ["teacher", "teacher_2"]
    measured = table.set_index(["prompt", "checkpoint"])["miou"]["box"]
    assert measured["teacher"] != measured["teacher_2"]
    stores = list((tmp_path / paths.dataset / "features").glob("*.zarr"))
    assert len(stores) == 2
    assert rules(tmp_path, name, "overlay=tiny") == []
    names = rules(tmp_path, name, "overlay=tiny", f"extra_teachers={json.dumps([])}")
    assert any(name.startswith("train_my_tiny") for name in names)
    assert not any(name.startswith("extract_") for name in names)
