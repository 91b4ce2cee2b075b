"""Losses between features: values by hand, least at the teacher, and alive in the encoder."""

import pytest
import torch
from torch import Tensor

from mobile_sam.config import ConfigError
from mobile_sam.options import FEATURE_LOSSES, level_name
from mobile_sam.training.distillation import (
    DISTILL_LOSSES,
    Distiller,
    Level,
    attention,
    cosine,
    mse,
    relation,
)
from tests.training.steps import batch, course_of_descent, encoder_gradient, learner

NECK = {"neck": Level(None)}


def pixel(*channels: float) -> Tensor:
    return torch.tensor(channels).view(1, -1, 1, 1)


def test_every_loss_of_the_settings_is_in_the_table() -> None:
    assert tuple(DISTILL_LOSSES) == FEATURE_LOSSES


def test_mse_and_cosine_by_hand() -> None:
    student, teacher = pixel(3.0, 4.0), pixel(4.0, 3.0)
    assert mse(student, teacher).tolist() == pytest.approx([1.0])
    assert cosine(student, teacher).tolist() == pytest.approx([1 - 24 / 25])


def test_attention_by_hand() -> None:
    """Two pixels with sums of squares (3, 4) and (4, 3): maps (0.6, 0.8) and (0.8, 0.6)."""
    student = torch.tensor([3.0, 4.0]).sqrt().view(1, 1, 1, 2)
    teacher = torch.tensor([4.0, 3.0]).sqrt().view(1, 1, 1, 2)
    assert attention(student, teacher).tolist() == pytest.approx([0.08])


def test_relation_by_hand() -> None:
    """Two pixels, at right angles in one and parallel in the other: two of four cosines differ."""
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[1.0, 2.0], [1.0, 2.0]]).view(1, 2, 1, 2)
    assert relation(student, teacher).tolist() == pytest.approx([0.5])


def test_relation_compares_a_grid_of_places() -> None:
    features = torch.randn(1, 4, 64, 64)
    noise = torch.randn(1, 4, 64, 64)
    within = noise - torch.nn.functional.interpolate(
        torch.nn.functional.adaptive_avg_pool2d(noise, (16, 16)), (64, 64)
    )
    assert relation(features, features + within).item() == pytest.approx(0, abs=1e-6)
    assert relation(features, features + noise).item() > 0.01


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_mixed_precision_does_not_round_the_comparison(name: str) -> None:
    student = torch.randn(1, 8, 4, 4)
    teacher = student + 0.01 * torch.randn(1, 8, 4, 4)
    plain = DISTILL_LOSSES[name](student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        assert DISTILL_LOSSES[name](student, teacher).item() == pytest.approx(
            plain.item(), rel=1e-4
        )


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_images_do_not_see_each_other(name: str) -> None:
    student, teacher = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4)
    each = [DISTILL_LOSSES[name](student[i : i + 1], teacher[i : i + 1]) for i in range(3)]
    assert torch.allclose(DISTILL_LOSSES[name](student, teacher), torch.cat(each), atol=1e-6)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_distillation_is_least_at_the_teacher(name: str) -> None:
    distiller = Distiller(8, NECK, seed=0)
    teacher = torch.randn(2, 8, 4, 4)

    def loss(student: Tensor) -> float:
        return distiller(student, {"neck": teacher}, {name: 1.0})[name].mean().item()

    assert loss(teacher) == pytest.approx(0.0, abs=1e-6)
    for step in (0.01, 0.1, 1.0):
        assert loss(teacher + step * torch.randn_like(teacher)) > loss(teacher)


def test_only_losses_with_a_weight_are_computed() -> None:
    features = torch.randn(1, 8, 4, 4)
    found = Distiller(8, NECK, seed=0)(features, {"neck": features}, {"cosine": 2.0})
    assert list(found) == ["cosine"]


def test_levels_count_by_their_shares_each_with_a_projection_of_its_own() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 8, 4, 4)
    teacher = {"neck": torch.randn(2, 8, 4, 4), "block_3": torch.randn(2, 5, 4, 4)}
    levels = {"neck": Level(None, 0.75), "block_3": Level(5, 0.25)}
    distiller = Distiller(8, levels, seed=0)
    projected = distiller.projections["block_3"](student)
    expected = 0.75 * mse(student, teacher["neck"]) + 0.25 * mse(projected, teacher["block_3"])
    assert torch.allclose(distiller(student, teacher, {"mse": 1.0})["mse"], expected)
    alone = Distiller(8, {"block_3": Level(5)}, seed=0)
    assert torch.equal(alone.projections["block_3"].weight, distiller.projections["block_3"].weight)


def test_shapes_that_differ_are_an_error_and_never_resized() -> None:
    distiller = Distiller(8, NECK, seed=0)
    with pytest.raises(ConfigError, match=r"\(1, 8, 2, 2\), the student gives \(1, 8, 4, 4\)"):
        distiller(torch.randn(1, 8, 4, 4), {"neck": torch.randn(1, 8, 2, 2)}, {"mse": 1.0})


@pytest.mark.parametrize("name", FEATURE_LOSSES)
@pytest.mark.parametrize("level", ["neck", 1])
def test_every_loss_reaches_the_encoder(name: str, level: str | int) -> None:
    model = learner(level, supervised={}, features={name: 1.0})
    losses = model.train()(batch(level))
    losses["loss"].sum().backward()
    assert encoder_gradient(model) > 0
    if level != "neck":
        assert model.distiller.projections[level_name(level)].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_descending_from_a_perturbed_student_comes_back(name: str) -> None:
    torch.manual_seed(0)
    model = learner(supervised={}, features={name: 1.0})
    model.train()  # random weights without normalisation give embeddings of mere noise
    course = course_of_descent(model, model.student.image_encoder, noise=0.1, steps=40)
    assert course[-1] < 0.03 * course[0]
