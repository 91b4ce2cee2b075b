"""A batch, a student and teachers small enough to look at one training step."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

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


def own_decoder(model: Learner) -> TeacherDecoder:
    """A teacher's decoder with the weights of the student, which later changes leave alone."""
    same = build_sam_model("tiny_sam", 64)
    same.load_state_dict(model.student.state_dict())
    return TeacherDecoder(same, "neck", 1.0, CPU)


def course_of_descent(model: Learner, part: nn.Module, noise: float, steps: int) -> list[float]:
    """Losses of a student that was its own teacher until `part` of it was perturbed.

    noise: relative to the mean absolute value of each parameter of `part`, which alone is trained.
    """
    sample = batch()
    with torch.no_grad():
        teacher = model.student.image_encoder(sample.image)
        for parameter in part.parameters():
            parameter.add_(noise * parameter.abs().mean() * torch.randn_like(parameter))
    sample = sample._replace(teacher={"neck": teacher})
    optimizer = torch.optim.Adam(part.parameters(), lr=1e-3)
    course = []
    for _ in range(steps):
        loss = model(sample)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(loss.item())
    return course
