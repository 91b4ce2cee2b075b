"""A batch, a student and teachers small enough to look at one training step."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mobile_sam.config.sections import level_name
from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.mask_decoder import Decoded
from mobile_sam.training.step import Losses, Objective, TrainingModule, encode
from mobile_sam.training.teacher import FeatureProjections, Level, TeacherDecoder

SUPERVISED = {"focal": 20.0, "dice": 1.0, "iou": 1.0}
GOAL = Objective(SUPERVISED, {}, {})
CPU = torch.device("cpu")


def batch(level: str | int = "neck") -> Sample:
    """Two images with a box and a point each."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 2, 64, 64, dtype=torch.bool)
    masks[..., 10:40, 20:50] = True
    points = torch.tensor([[[20.0, 10.0], [50.0, 40.0]], [[30.0, 20.0], [0.0, 0.0]]])
    image = torch.randint(256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    channels = 32 if level == "neck" else 48
    return Sample(
        position=torch.arange(2),
        image=image,
        size=torch.full((2, 2), 64),
        valid=torch.ones(2, 64, 64, dtype=torch.bool),
        masks=masks,
        points=points.repeat(2, 1, 1, 1),
        labels=torch.tensor([[2, 3], [1, -1]]).repeat(2, 1, 1),
        teacher={level_name(level): torch.randn(2, channels, 4, 4, generator=generator)},
        seed=torch.tensor([3, 4]),
        labelled=torch.ones(2, dtype=torch.bool),
        per_labelled=torch.ones(2),
    )


def training_module(
    level: str | int = "neck", teachers: tuple[TeacherDecoder, ...] = (), **goal: Any
) -> TrainingModule:
    """A tiny student; goal: what differs from `GOAL`."""
    levels = {level_name(level): Level(None if level == "neck" else 48)}
    student = build_sam_model("tiny_sam", 64)
    return TrainingModule(
        student, FeatureProjections(32, levels, seed=0), replace(GOAL, **goal), teachers
    )


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


def encoder_gradient(model: TrainingModule) -> float:
    """The sum of absolute gradients in the student's image encoder."""
    gradients = [p.grad for p in model.student.image_encoder.parameters()]
    return sum(float(g.abs().sum()) for g in gradients if g is not None)


def losses_and_gradients(model: TrainingModule, sample: Sample) -> tuple[Losses, Losses]:
    """Losses of a step in 64 bits, and the gradients of all that it reaches, by name."""
    losses = model.double().eval()(sample)
    losses["loss"].sum().backward()
    named = model.named_parameters()
    return losses, {name: p.grad for name, p in named if p.grad is not None}


def own_decoder(model: TrainingModule) -> TeacherDecoder:
    """A teacher's decoder with the weights of the student, which later changes leave alone."""
    same = build_sam_model("tiny_sam", 64)
    same.load_state_dict(model.student.state_dict())
    return TeacherDecoder(same, "neck", 1.0, CPU)


def course_of_descent(
    model: TrainingModule, part: nn.Module, noise: float, steps: int
) -> list[float]:
    """Losses of a student that was its own teacher until `part` of it was perturbed.

    noise: relative to the mean absolute value of each parameter of `part`, which alone is trained.
    """
    sample = batch()
    with torch.no_grad():
        teacher = encode(model.student, sample)
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
