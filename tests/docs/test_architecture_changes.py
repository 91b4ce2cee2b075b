"""The changes on the page on the architecture: they apply to the package, and they work."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LOSS, KEY = re.findall(r"^```diff\n(.*?)^```\n", PAGE, re.M | re.S)

# A training step of a small student and teacher without data.
STEP = """
import torch
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.reference import reference
from mobile_sam.config.schedule import canonical, normalise
from mobile_sam.training.setup import new_training_module
from mobile_sam.training.step_memory import blank_batch

TINY = {
    "run_name": "toy", "model_type": "tiny_sam", "img_size": 64, "checkpoint": None,
    "teacher_checkpoint": "random", "teacher_model_type": "tiny_sam", "num_epochs": 2,
}

def step(config, stage):
    module = new_training_module(config, stage, torch.device("cpu"))
    losses = module(blank_batch(config, stage, 2))
    losses["loss"].sum().backward()
    gradients = [p.grad for p in module.student.image_encoder.parameters() if p.grad is not None]
    assert any(bool(gradient.any()) for gradient in gradients)
    return losses
"""
WITH_LOSS = """
config = parse_config(TINY | {"use_distill": True, "distill_losses": {"l1": 2.0}}, "toy.json")
(stage,) = normalise(config)
losses = step(config, stage)
assert (losses["distill_l1"] > 0).all()
parts = losses["distill_mse"] + losses["distill_cosine"] + 2 * losses["distill_l1"]
assert torch.allclose(losses["distillation"], parts)
assert "l1" in reference()
plain = parse_config(TINY | {"use_distill": True}, "toy.json")
assert "distill_l1" not in step(plain, normalise(plain)[0])
"""
WITH_KEY = """
entry = {"start_epoch": 0, "end_epoch": 1, "lambda_truth": 3.0}
config = parse_config(TINY | {"stage_schedule": [entry]}, "toy.json")
first, second = normalise(config)
assert (first.lambda_truth, second.lambda_truth) == (3.0, 1.0)
losses = [step(config, stage)["loss"] for stage in (first, second)]
assert torch.allclose(losses[0], 3 * losses[1])
assert '"lambda_truth": 3.0' in canonical(config, first)
nothing = {"loss_weights": {"focal": 0, "dice": 0, "iou": 0}, "use_distill": True}
distilling = parse_config(TINY | nothing, "toy.json")
assert "lambda_truth" not in canonical(distilling, normalise(distilling)[0])
assert "lambda_truth" in reference()
"""


@pytest.mark.parametrize(("change", "use"), [(LOSS, WITH_LOSS), (KEY, WITH_KEY)])
def test_a_change_touches_two_files_and_works(change: str, use: str, tmp_path: Path) -> None:
    files = set(re.findall(r"^\+\+\+ b/(\S+)$", change, re.M))
    assert len(files) <= 2
    for name in ("mobile_sam", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    subprocess.run(["git", "apply"], input=change, text=True, cwd=tmp_path, env=alone, check=True)
    done = subprocess.run(
        [sys.executable, "-c", STEP + use],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
