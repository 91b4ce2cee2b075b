"""A batch size of `auto` is chosen once for a run, by the memory of the machine that begins it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import canonical, normalise
from mobile_sam.paths import RunPaths
from mobile_sam.training import batch_size, checkpoint
from mobile_sam.training.batch_size import (
    _available,
    _left_in_cgroup,
    free_memory,
    largest,
    with_batch_size,
)
from mobile_sam.training.run import train_run

Make = Callable[..., RunConfig]
TWO = [{"start_epoch": 0, "end_epoch": 1}, {"start_epoch": 1, "end_epoch": 2}]


def fits(monkeypatch: pytest.MonkeyPatch, bytes_of_image: int, free: int) -> list[list[int]]:
    """Let each image take so much of what is free; gives the sizes that were tried."""
    tried: list[list[int]] = []

    class Memory:
        def __init__(self, *of: Any) -> None:
            tried.append([])

        def peak(self, images: int) -> int:
            tried[-1].append(images)
            return bytes_of_image * images

    monkeypatch.setattr(batch_size, "StageMemory", Memory)
    monkeypatch.setattr(batch_size, "free_memory", lambda *of: free)
    return tried


def sizes(config: RunConfig) -> list[int]:
    paths = RunPaths(config)
    contents = [checkpoint.load(paths.checkpoint(stage)) for stage in normalise(config)]
    return [content["batch_size"] for content in contents]


def test_the_first_stage_chooses_for_all_and_on_every_machine(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(batch_size="auto", num_epochs=2, stage_schedule=TWO, val_images=0)
    tried = fits(monkeypatch, 100, 500)  # 4 images take 400 of the 450 that may be taken
    train_run(config, "00_finetune")
    fits(monkeypatch, 100, 10_000)
    train_run(config, "01_finetune")
    assert sizes(config) == [4, 4]
    assert len(tried) == 2  # both stages were to fit
    fixed = tiny(run_name="fixed", batch_size=4, num_epochs=2, stage_schedule=TWO, val_images=0)
    train_run(fixed)
    first, second = (
        checkpoint.load(RunPaths(c).checkpoint(normalise(c)[1])) for c in (config, fixed)
    )
    assert all(torch.equal(first["learner"][k], second["learner"][k]) for k in first["learner"])


def test_a_batch_is_not_larger_than_the_data_set(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(batch_size="auto", val_images=0)
    fits(monkeypatch, 1, 10**9)
    train_run(config)
    assert sizes(config) == [8]  # of ten images


def test_settings_hold_auto_whatever_was_chosen() -> None:
    config = parse_config({"run_name": "a", "batch_size": "auto"}, "test")
    stage = normalise(config)[0]
    chosen = [canonical(config.with_batch_size(n), stage) for n in (2, 32)]
    assert chosen[0] == chosen[1] == canonical(config, stage)
    assert json.loads(chosen[0])["batch_size"] == "auto"
    assert config.with_batch_size(2).keeps_batchnorm
    assert not config.with_batch_size(32).keeps_batchnorm


def test_a_resumed_stage_keeps_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"run_name": "a", "batch_size": "auto", "output_dir": str(tmp_path)}
    config = parse_config(given, "test")
    stage, alone = normalise(config)[0], Fabric(accelerator="cpu", devices=1)
    resume = RunPaths(config).state(stage) / "resume.pt"
    resume.parent.mkdir(parents=True)
    checkpoint.save(resume, {"key": "its own", "batch_size": 4})
    monkeypatch.setattr(batch_size, "_choose_size", lambda *of: 16)
    assert with_batch_size(config, stage, "its own", alone).images_per_batch == 4
    assert with_batch_size(config, stage, "of other inputs", alone).images_per_batch == 16


@pytest.mark.parametrize(("limit", "size"), [(6400, 64), (6399, 32), (100, 1), (99, 1)])
def test_the_largest_batch_that_fits_is_found(
    limit: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits(monkeypatch, 100, 0)
    config = parse_config({"run_name": "a", "batch_size": "auto"}, "test")
    found = largest(config, normalise(config), batch_size.SIZES, "cpu", limit)
    assert found == (size, 100 * size)


def test_the_memory_that_is_free_has_the_limit_of_the_control_group(tmp_path: Path) -> None:
    meminfo, own = tmp_path / "meminfo", tmp_path / "own"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:       3 kB\n")
    assert _available(meminfo) == 3 * 1024
    assert _left_in_cgroup(tmp_path, own) == 2**63 - 1
    own.write_text("0::/job\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "memory.max").write_text("1000\n")
    (tmp_path / "job" / "memory.current").write_text("400\n")
    assert _left_in_cgroup(tmp_path, own) == 600
    cpu = torch.device("cpu")
    assert 0 < free_memory(cpu, 2) < free_memory(cpu)
