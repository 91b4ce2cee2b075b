"""Number formats: what is rounded, what is not, and what is said of a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint, precision
from mobile_sam.training.run import train_run
from mobile_sam.training.step import TrainingModule
from tests.helpers.equality import equal_states

Make = Callable[..., RunConfig]


@pytest.mark.parametrize("setting", ["32-true", "bf16-mixed", "16-mixed", "64-true"])
def test_points_are_not_rounded(setting: str, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bfloat16 has eight bits: at 1024 pixels it would move points by up to two."""
    seen: list[torch.dtype] = []
    original = TrainingModule.forward

    def look(self: TrainingModule, batch: Sample, *args: Any) -> Any:
        seen.append(batch.points.dtype)
        return original(self, batch, *args)

    monkeypatch.setattr(TrainingModule, "forward", look)
    train_run(tiny(precision=setting))
    assert set(seen) == {torch.float64 if setting == "64-true" else torch.float32}


def test_64_bits_are_kept_from_stage_to_stage(tiny: Make) -> None:
    settings: dict[str, Any] = {"precision": "64-true", "num_epochs": 2, "ema_decay": 0.5}
    settings |= {"lr_scheduler": "constant", "warmup_steps": 0, "use_distill": True}
    split = tiny(run_name="a", **settings, stage_schedule=[{"start_epoch": 0, "end_epoch": 1}])
    whole = tiny(run_name="b", **settings)
    states = []
    for config in (split, whole):
        train_run(config)
        last = RunPaths(config).checkpoint(normalise(config)[-1])
        states.append(checkpoint.load(last))
    for part in ("learner", "average"):
        assert equal_states(states[0][part], states[1][part])
    module = states[0]["learner"].values()
    assert {v.dtype for v in module if v.is_floating_point()} == {torch.float64}
    rounded = [torch.equal(v, v.float().double()) for v in module if v.is_floating_point()]
    assert not all(rounded)


def test_64_bits_with_a_frozen_encoder(tiny: Make) -> None:
    config = tiny(precision="64-true", freeze={"image_encoder": True})
    train_run(config)
    assert RunPaths(config).checkpoint(normalise(config)[0]).is_file()


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        ("flags : fpu avx512_bf16 avx512vl", True),
        ("flags : amx_bf16 amx_tile", True),
        ("Features : fp asimd bf16 i8mm", True),
        ("flags : fpu avx2 avx512f", False),
    ],
)
def test_bfloat16_is_read_off_the_cpu(flags: str, known: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert precision.cpu_has_bfloat16(tmp_path / "cpuinfo") is known
    assert precision.cpu_has_bfloat16(tmp_path / "none")


@pytest.mark.parametrize(
    ("setting", "able", "slow"),
    [
        ("bf16-mixed", False, True),
        ("bf16-mixed", True, False),
        ("16-mixed", True, True),
        ("auto", False, False),
        ("32-true", False, False),
    ],
)
def test_what_is_slower_on_this_cpu_is_said(
    setting: str,
    able: bool,
    slow: bool,
    tiny: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: able)
    train_run(tiny(precision=setting, val_images=0))
    assert ("slower than 32-true" in caplog.text) == slow
