"""Each loss to the truth: its value by hand, and what it does not look at."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mobile_sam.config.losses import LOSSES, DistillLosses, LossWeights
from mobile_sam.training.losses import FUNCTIONS, boundary, dice, focal, iou, measured_iou

LOGIT = math.log(3.0)  # probability 3/4
ONES = torch.ones(1, 1, 2)


def test_every_row_has_a_function() -> None:
    assert tuple(FUNCTIONS) == tuple(LOSSES)
    assert set(LossWeights.model_fields) | set(DistillLosses.model_fields) == set(LOSSES)


def test_focal_by_hand() -> None:
    logits, truth = torch.full((1, 1, 2), LOGIT), torch.tensor([[[1.0, 0.0]]])
    right = 0.25 * 0.25**2 * -math.log(0.75)
    wrong = 0.75 * 0.75**2 * -math.log(0.25)
    assert focal(logits, truth, ONES).item() == pytest.approx((right + wrong) / 2, rel=1e-5)


def test_the_slope_of_focal_is_that_of_its_formula() -> None:
    """Against automatic differentiation of equation 5 as it is written."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(2, 5, 5, dtype=torch.double)).requires_grad_()
    truth, valid = (torch.rand(2, 5, 5) > 0.5).double(), (torch.rand(2, 5, 5) > 0.2).double()
    probability = torch.sigmoid(logits)
    right = torch.where(truth > 0.5, probability, 1 - probability)
    alpha = torch.where(truth > 0.5, 0.25, 0.75)
    written = -alpha * (1 - right) ** 2 * right.log()
    expected = (written * valid).sum((1, 2)) / valid.sum((1, 2))
    found = focal(logits, truth, valid)
    assert torch.allclose(found, expected)
    weights = torch.tensor([1.0, 3.0], dtype=torch.double)
    slopes = [torch.autograd.grad((weights * x).sum(), logits)[0] for x in (found, expected)]
    assert torch.allclose(*slopes)


def test_focal_stays_finite() -> None:
    logits = torch.tensor([[[-1e4, 1e4, -1e4, 1e4]]], requires_grad=True)
    loss = focal(logits, torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), torch.ones(1, 1, 4))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_dice_by_hand() -> None:
    logits, truth = torch.full((1, 1, 2), LOGIT), torch.tensor([[[1.0, 0.0]]])
    expected = 1 - (2 * 0.75 + 1) / (1.5 + 1 + 1)
    assert dice(logits, truth, ONES).item() == pytest.approx(expected)


def test_boundary_by_hand() -> None:
    """Of an 8 by 8 square in 16 by 16 pixels the band is one pixel to either side of its edge."""
    truth = torch.zeros(1, 16, 16)
    truth[:, 4:12, 4:12] = 1
    logits = torch.full((1, 16, 16), LOGIT)
    outside, inside = 10 * 10 - 8 * 8, 8 * 8 - 6 * 6
    expected = (outside * -math.log(0.25) + inside * -math.log(0.75)) / (outside + inside)
    assert boundary(logits, truth, torch.ones(1, 16, 16)).item() == pytest.approx(expected)


def test_boundary_looks_at_nothing_far_from_the_edge() -> None:
    truth = torch.zeros(1, 16, 16)
    truth[:, 4:12, 4:12] = 1
    logits = torch.randn(1, 16, 16)
    far = logits.clone()
    far[:, 6:10, 6:10] = 9.0
    far[:, :2] = 9.0
    valid = torch.ones(1, 16, 16)
    assert boundary(far, truth, valid).equal(boundary(logits, truth, valid))
    nothing = torch.zeros(1, 16, 16)
    assert boundary(logits, nothing, valid).item() == 0


def test_iou_error_by_hand() -> None:
    measured = torch.tensor([0.5], requires_grad=True)
    guess = torch.tensor([0.8], requires_grad=True)
    loss = iou(guess, measured)
    assert loss.item() == pytest.approx(0.09)
    loss.sum().backward()
    assert guess.grad is not None
    assert measured.grad is None  # the truth is not drawn to the guess


def test_measured_iou_by_hand() -> None:
    logits = torch.tensor([[[1.0, 1.0, -1.0, 5.0]]])
    truth = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]])
    valid = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
    assert measured_iou(logits, truth, valid).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("loss", [focal, dice])
def test_padding_counts_in_no_loss(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    logits, truth = torch.randn(2, 4, 4), (torch.rand(2, 4, 4) > 0.5).float()
    valid = torch.ones(2, 4, 4)
    valid[:, 2:] = 0
    padded = loss(logits, truth, valid)
    elsewhere = logits.clone()
    elsewhere[:, 2:] = 9.0
    assert torch.allclose(loss(elsewhere, truth, valid), padded)
    assert torch.allclose(loss(logits[:, :2], truth[:, :2], valid[:, :2]), padded)


def test_padding_counts_at_no_edge() -> None:
    logits, truth = torch.randn(1, 8, 8), torch.zeros(1, 8, 8)
    truth[:, :4, :4] = 1
    valid = torch.ones(1, 8, 8)
    valid[:, :, 4:] = 0
    elsewhere = logits.clone()
    elsewhere[:, :, 4:] = 9.0
    assert boundary(elsewhere, truth, valid).equal(boundary(logits, truth, valid))
    assert boundary(elsewhere, truth, torch.ones(1, 8, 8)) != boundary(logits, truth, valid)


@pytest.mark.parametrize("loss", [focal, dice, boundary])
def test_a_right_mask_is_the_least(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    truth = torch.zeros(1, 16, 16)
    truth[:, 3:9, 5:12] = 1
    valid = torch.ones(1, 16, 16)
    right = loss(40 * truth - 20, truth, valid).item()
    assert right == pytest.approx(0, abs=1e-5)
    for wrong in (20 - 40 * truth, 40 * truth.roll(2, 2) - 20, torch.zeros(1, 16, 16)):
        assert loss(wrong, truth, valid).item() > right + 1e-3
