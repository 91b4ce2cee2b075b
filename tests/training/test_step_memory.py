"""Memory from fake tensors is what PyTorch allocates for real ones."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.sampling.dataset import Sample, collate
from mobile_sam.models.prompt_encoder import FOREGROUND
from mobile_sam.training.setup import training_set
from mobile_sam.training.step_memory import StageMemory, autocast_as_on, blank_batch, float32_as_on
from tests.helpers.commands import ROOT

Make = Callable[..., RunConfig]

TINY = {"model_type": "tiny_sam", "images": 2, "img_size": 192}
CASES: list[dict[str, Any]] = [
    TINY | {"img_size": 64, "images": 3},
    TINY | {"img_size": 256, "recompute_encoder": True, "decoder_chunk_size": 2},
    TINY | {"img_size": 256, "recompute_encoder": True, "mask_loss_points": 512},
    {
        **TINY,
        **{"use_distill": True, "teacher_checkpoint": "random", "prompt_rounds": 2},
        **{"teacher_model_type": "tiny_teacher_vit", "click_target": "teacher", "ema_decay": 0.9},
        "distill_losses": {"mse": 1.0, "relation": 1.0, "mask_bce": 1.0, "mask_tokens": 1.0},
        "prompts": {"box": 0.5, "point": 0.5, "mask": 0.5, "points": 0.5},
    },
]


def test_estimates_are_near_what_the_allocator_of_the_cpu_holds() -> None:
    script = str(ROOT / "benchmarks" / "estimate.py")
    result = subprocess.run(
        [sys.executable, script, "--together", *map(json.dumps, CASES)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_distill": True, "distill_feature_level": ["neck", 1]},
        {"prompts": {"points": 1.0, "mask": 1.0}},
        {"loss_weights": {"focal": 0.0, "dice": 0.0, "iou": 0.0}, "use_distill": True},
    ],
)
def test_blank_batches_have_the_shapes_and_types_of_real_ones(
    changes: dict[str, Any], tiny: Make
) -> None:
    config = tiny(**changes)
    stage = normalise(config)[0]
    samples = training_set(config, stage)
    assert shapes(blank_batch(config, stage, 3)) == shapes(collate([samples[i] for i in range(3)]))


def test_a_blank_batch_has_cached_embeddings_where_training_has() -> None:
    config = run(freeze={"image_encoder": True})
    batch = blank_batch(config, normalise(config)[0], 3)
    assert batch.embedding.shape == (3, 32, 4, 4)
    assert batch.image.numel() == 0


def test_what_saves_memory_lowers_the_estimate() -> None:
    plain = memory()
    assert memory(recompute_encoder=True) < plain
    assert memory(mask_loss_points=512) < plain
    assert memory(device="cuda", checkpoint="nowhere.pt") < plain  # bfloat16; nothing is loaded


def test_on_a_gpu_autocast_normalises_in_float32() -> None:
    norm, features = torch.nn.LayerNorm(4), torch.zeros(2, 4, dtype=torch.bfloat16)
    with autocast_as_on("auto", "cuda"), float32_as_on("cuda"):
        assert norm(features).dtype == torch.float32
        assert torch.nn.functional.linear(features, features).dtype == torch.bfloat16
    with autocast_as_on("auto", "cpu"):
        assert torch.zeros(2, 2).matmul(torch.zeros(2, 2)).dtype == torch.float32


def test_every_prompt_of_a_blank_batch_is_a_single_point() -> None:
    labels = blank_batch(run(prompts={"points": 1.0}), normalise(run())[0], 2).labels
    assert ((labels >= 0).sum(-1) == 1).all()
    assert (labels[..., 0] == FOREGROUND).all()


def test_a_second_estimate_is_that_of_a_new_one() -> None:
    config = run(img_size=128)
    used = StageMemory(config, normalise(config)[0], "cpu")
    larger, again = used.peak(3), used.peak(2)
    assert larger > again == memory()


def run(**changes: Any) -> RunConfig:
    settings = {"run_name": "memory", "model_type": "tiny_sam", "img_size": 64, "checkpoint": None}
    return parse_config(settings | changes, "test")


def memory(images: int = 2, device: str = "cpu", **changes: Any) -> int:
    config = run(**{"img_size": 128} | changes)
    return StageMemory(config, normalise(config)[0], device).peak(images)


def shapes(batch: Sample) -> dict[str, Any]:
    """Shape and type of each field."""
    plain = {name: value for name, value in batch._asdict().items() if name != "teacher"}
    fields = plain | {f"teacher {level}": value for level, value in batch.teacher.items()}
    return {name: (tuple(value.shape), value.dtype) for name, value in fields.items()}
