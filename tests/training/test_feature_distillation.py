"""Losses between features: values by hand, least at the teacher, and alive in the encoder."""

import pytest
import torch
from torch import Tensor

from mobile_sam.config.losses import FEATURE_LOSSES
from mobile_sam.config.sections import level_name
from mobile_sam.system.errors import ConfigError
from mobile_sam.training.losses import FUNCTIONS, attention, cosine, mse, relation
from mobile_sam.training.step import feature_losses, image_places
from mobile_sam.training.teacher import FeatureProjections, Level
from tests.helpers.training_steps import batch, course_of_descent, encoder_gradient, training_module

NECK = {"neck": Level(None)}


def everywhere(features: Tensor) -> Tensor:
    """Places that are all of the image."""
    return torch.ones(len(features), *features.shape[2:])


def pixel(*channels: float) -> Tensor:
    return torch.tensor(channels).view(1, -1, 1, 1)


ONE = torch.ones(1, 1, 1)


def test_mse_and_cosine_by_hand() -> None:
    student, teacher = pixel(3.0, 4.0), pixel(4.0, 3.0)
    assert mse(student, teacher, ONE).tolist() == pytest.approx([1.0])
    assert cosine(student, teacher, ONE).tolist() == pytest.approx([1 - 24 / 25])


def test_attention_by_hand() -> None:
    """Two pixels with sums of squares (3, 4) and (4, 3): maps (0.6, 0.8) and (0.8, 0.6)."""
    student = torch.tensor([3.0, 4.0]).sqrt().view(1, 1, 1, 2)
    teacher = torch.tensor([4.0, 3.0]).sqrt().view(1, 1, 1, 2)
    assert attention(student, teacher, everywhere(student)).tolist() == pytest.approx([0.08])


def test_relation_by_hand() -> None:
    """Two pixels, at right angles in one and parallel in the other: two of four cosines differ."""
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[1.0, 2.0], [1.0, 2.0]]).view(1, 2, 1, 2)
    assert relation(student, teacher, everywhere(student)).tolist() == pytest.approx([0.5])


def test_the_share_of_each_place_that_is_no_padding_by_hand() -> None:
    """20 by 36 pixels of 64 are a row of whole places and a quarter of the next, and so on."""
    (found,) = image_places(torch.tensor([[20, 36]]), side=4)
    rows, columns = torch.tensor([1, 0.25, 0, 0]), torch.tensor([1, 1, 0.25, 0])
    assert torch.equal(found, rows[:, None] * columns)
    assert torch.equal(image_places(torch.tensor([[64, 64]]), side=4), torch.ones(1, 4, 4))


def test_losses_by_places_by_hand() -> None:
    """Three places of weights 1, 1/2 and 0, with differences of 1, 2 and 9 in one channel."""
    places = torch.tensor([[[1.0, 0.5, 0.0]]])
    student, teacher = torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, 2.0, 9.0]]]])
    assert mse(student, teacher, places).tolist() == pytest.approx([(1 + 0.5 * 4) / 1.5])
    right, up = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    student = torch.stack([right, right, right], dim=1)[None, :, None]
    teacher = torch.stack([right, up, up], dim=1)[None, :, None]
    assert cosine(student, teacher, places).tolist() == pytest.approx([0.5 / 1.5])
    # Of the pairs of the first two places, the two that are not of one place differ by 1.
    assert relation(student, teacher, places).tolist() == pytest.approx([2 * 0.5 / 1.5**2])
    # Maps (3, 4, 9) and (4, 3, 7): lengths are sqrt(9 + 16/2) and sqrt(16 + 9/2).
    first, second = torch.tensor([3.0, 4.0, 9.0]), torch.tensor([4.0, 3.0, 7.0])
    expected = (3 / 17**0.5 - 4 / 20.5**0.5) ** 2 + 0.5 * (4 / 17**0.5 - 3 / 20.5**0.5) ** 2
    one, other = (x.sqrt().view(1, 1, 1, 3) for x in (first, second))
    assert attention(one, other, places).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_padding_gets_no_gradient(name: str) -> None:
    student, teacher = torch.randn(1, 8, 32, 32).requires_grad_(), torch.randn(1, 8, 32, 32)
    places = image_places(torch.tensor([[512, 200]]), side=32)
    FUNCTIONS[name](student, teacher, places).sum().backward()
    reached = (student.grad != 0).any(1)[0]
    assert reached[:, :13].all()
    assert not reached[:, 13:].any()
    assert torch.isfinite(student.grad).all()


def test_relation_compares_a_grid_of_places() -> None:
    features = torch.randn(1, 4, 64, 64)
    noise = torch.randn(1, 4, 64, 64)
    within = noise - torch.nn.functional.interpolate(
        torch.nn.functional.adaptive_avg_pool2d(noise, (16, 16)), (64, 64)
    )
    places = everywhere(features)
    assert relation(features, features + within, places).item() == pytest.approx(0, abs=1e-6)
    assert relation(features, features + noise, places).item() > 0.01


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_mixed_precision_does_not_round_the_comparison(name: str) -> None:
    student = torch.randn(1, 8, 4, 4)
    teacher = student + 0.01 * torch.randn(1, 8, 4, 4)
    plain = FUNCTIONS[name](student, teacher, everywhere(student))
    with torch.autocast("cpu", torch.bfloat16):
        found = FUNCTIONS[name](student, teacher, everywhere(student))
    assert found.item() == pytest.approx(plain.item(), rel=1e-4)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_images_do_not_see_each_other(name: str) -> None:
    student, teacher = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4)
    loss, places = FUNCTIONS[name], image_places(torch.tensor([[64, 64], [40, 64], [9, 9]]), 4)
    one = [slice(i, i + 1) for i in range(3)]
    each = [loss(student[i], teacher[i], places[i]) for i in one]
    assert torch.allclose(loss(student, teacher, places), torch.cat(each), atol=1e-6)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_distillation_is_least_at_the_teacher(name: str) -> None:
    projections = FeatureProjections(8, NECK, seed=0)
    teacher = torch.randn(2, 8, 4, 4)

    def loss(student: Tensor) -> float:
        places = everywhere(teacher)
        (found,) = feature_losses(projections, student, {"neck": teacher}, places, [name]).values()
        return found.mean().item()

    assert loss(teacher) == pytest.approx(0.0, abs=1e-6)
    for step in (0.01, 0.1, 1.0):
        assert loss(teacher + step * torch.randn_like(teacher)) > loss(teacher)


def test_only_losses_with_a_weight_are_computed() -> None:
    features = torch.randn(1, 8, 4, 4)
    model = FeatureProjections(8, NECK, seed=0)
    found = feature_losses(
        model, features, {"neck": features}, everywhere(features), {"cosine": 2.0}
    )
    assert list(found) == ["distill_cosine"]


def test_levels_count_by_their_shares_each_with_a_projection_of_its_own() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 8, 4, 4)
    teacher = {"neck": torch.randn(2, 8, 4, 4), "block_3": torch.randn(2, 5, 4, 4)}
    levels = {"neck": Level(None, 0.75), "block_3": Level(5, 0.25)}
    projections = FeatureProjections(8, levels, seed=0)
    projected = projections.projections["block_3"](student)
    places = everywhere(student)
    expected = 0.75 * mse(student, teacher["neck"], places)
    expected += 0.25 * mse(projected, teacher["block_3"], places)
    losses = feature_losses(projections, student, teacher, places, ["mse"])
    assert torch.allclose(losses["distill_mse"], expected)
    alone = FeatureProjections(8, {"block_3": Level(5)}, seed=0)
    assert torch.equal(
        alone.projections["block_3"].weight, projections.projections["block_3"].weight
    )


def test_shapes_that_differ_are_an_error_and_never_resized() -> None:
    projections = FeatureProjections(8, NECK, seed=0)
    with pytest.raises(ConfigError, match=r"\(1, 8, 2, 2\), the student's are \(1, 8, 4, 4\)"):
        teacher = {"neck": torch.randn(1, 8, 2, 2)}
        embedding, places = torch.randn(1, 8, 4, 4), torch.ones(1, 4, 4)
        feature_losses(projections, embedding, teacher, places, ["mse"])


@pytest.mark.parametrize("name", FEATURE_LOSSES)
@pytest.mark.parametrize("level", ["neck", 1])
def test_every_loss_reaches_the_encoder(name: str, level: str | int) -> None:
    model = training_module(level, truth_losses={}, feature_losses={name: 1.0})
    losses = model.train()(batch(level))
    losses["loss"].sum().backward()
    assert encoder_gradient(model) > 0
    if level != "neck":
        assert model.distiller.projections[level_name(level)].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_descending_from_a_perturbed_student_comes_back(name: str) -> None:
    torch.manual_seed(0)
    model = training_module(truth_losses={}, feature_losses={name: 1.0})
    model.train()  # random weights without normalisation give embeddings of mere noise
    course = course_of_descent(model, model.student.image_encoder, noise=0.1, steps=40)
    assert course[-1] < 0.03 * course[0]
