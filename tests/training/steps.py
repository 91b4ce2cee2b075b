"""A batch, a student and teachers small enough to look at one training step."""

from dataclasses import replace
from typing import Any

import torch

from mobile_sam.data.dataset import Sample
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.mask_decoder import Decoded
from mobile_sam.options import level_name
from mobile_sam.training.answers import TeacherDecoder
from mobile_sam.training.distillation import Distiller, Level
from mobile_sam.training.learner import Learner
from mobile_sam.training.objective import Objective

SUPERVISED = {"focal": 20.0, "dice": 1.0, "iou": 1.0}
GOAL = Objective(SUPERVISED, {}, {})
CPU = torch.device("cpu")


def batch(level: str | int = "neck") -> Sample:
    """Two images with a box and a point each."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 2, 64, 64, dtype=torch.bool)
    masks[..., 10:40, 20:50] = True
    points = torch.tensor([[[20.0, 10.0], [50.0, 40.0]], [[30.0, 20.0], [0.0, 0.0]]])
    channels = 32 if level == "neck" else 48
    return Sample(
        position=torch.arange(2),
        image=torch.randn(2, 3, 64, 64, generator=generator),
        valid=torch.ones(2, 64, 64, dtype=torch.bool),
        masks=masks,
        points=points.repeat(2, 1, 1, 1),
        labels=torch.tensor([[2, 3], [1, -1]]).repeat(2, 1, 1),
        teacher={level_name(level): torch.randn(2, channels, 4, 4, generator=generator)},
        seed=torch.tensor([3, 4]),
        labelled=torch.ones(2, dtype=torch.bool),
    )


def learner(
    level: str | int = "neck", teachers: tuple[TeacherDecoder, ...] = (), **goal: Any
) -> Learner:
    """A tiny student; goal: what differs from `GOAL`."""
    levels = {level_name(level): Level(None if level == "neck" else 48)}
    student = build_sam_model("tiny_sam", 64)
    return Learner(student, Distiller(32, levels, seed=0), replace(GOAL, **goal), teachers)


def teacher_decoder(seed: int = 1, name: str = "neck", share: float = 1.0) -> TeacherDecoder:
    """The decoder of a random teacher."""
    return TeacherDecoder(build_sam_model("tiny_sam", 64, seed=seed), name, share, CPU)


def decoded(seed: int = 0, prompts: int = 3, masks: int = 4) -> Decoded:
    """Answers of no decoder."""
    generator = torch.Generator().manual_seed(seed)
    return Decoded(
        torch.randn(prompts, masks, 8, 8, generator=generator),
        torch.rand(prompts, masks, generator=generator),
        torch.randn(prompts, masks, 6, generator=generator),
    )


def encoder_gradient(model: Learner) -> float:
    """The sum of absolute gradients in the student's image encoder."""
    gradients = [p.grad for p in model.student.image_encoder.parameters()]
    return sum(float(g.abs().sum()) for g in gradients if g is not None)
