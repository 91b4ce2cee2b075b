"""The estimate of a run: a line for each job, and what fits."""

from collections.abc import Iterator

import pytest

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.evaluation import memory_estimate
from mobile_sam.evaluation.memory_estimate import Machine, this_machine
from mobile_sam.training.step_memory import StageMemory

SETTINGS = {
    **{"run_name": "a", "model_type": "tiny_sam", "img_size": 64, "checkpoint": "nowhere.pt"},
    **{"use_distill": True, "teacher_checkpoint": "nowhere.pt", "batch_size": 2},
    **{"teacher_model_type": "tiny_teacher_vit", "num_epochs": 1},
}


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return parse_config(SETTINGS, "test")


def rows(lines: Iterator[str]) -> dict[str, list[str]]:
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0] if len(row) == 3 else " ".join(row[:2]): row[1:] for row in table}


def test_each_job_has_a_line_and_what_fits_is_said(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = StageMemory(config, normalise(config)[0], "cuda").peak(2)
    monkeypatch.setattr(memory_estimate, "SIZES", (2, 1))
    found = rows(memory_estimate.estimate(config, Machine("cuda", int(peak / 0.95))))
    assert found["train 00_distill_finetune"][1] == "no"  # 10 % are left free
    assert found["extract tiny_teacher_vit, one image"][1] == "yes"
    assert {"validate tiny_sam", "validate tiny_teacher_vit"} <= set(found)
    assert found["false 32"][1] == "1"
    assert found["true 8"][1] in {"1", "2"}


def test_a_gpu_that_is_not_there_is_named() -> None:
    assert this_machine(16.0) == Machine("cuda", 16 * 2**30)
    assert this_machine(None).memory > 0
