"""The truth and a prompt's masks: one for clear prompts, the best of three for single points."""

import pytest
import torch

from mobile_sam.models.mask_decoder import Decoded
from mobile_sam.training.losses import dice, focal, measured_iou
from mobile_sam.training.supervision import (
    is_ambiguous,
    most_confident,
    supervised_losses,
    upscaled,
)
from tests.training.steps import SUPERVISED

TRUTH = torch.zeros(2, 32, 32)
TRUTH[:, 8:24, 8:24] = 1
VALID = torch.ones(2, 32, 32)
BOTH, NONE = torch.tensor([True, True]), torch.tensor([False, False])


def answers(*shifts: int) -> Decoded:
    """Two prompts; mask k is the truth, moved by shifts[k] pixels of its own size to the right."""
    small = torch.nn.functional.avg_pool2d(TRUTH[:, None], 4)[:, 0]
    masks = torch.stack([small.roll(shift, 2) for shift in shifts], dim=1)
    return Decoded(
        (8 * masks - 4).requires_grad_(),
        torch.full((2, len(shifts)), 0.5, requires_grad=True),
        torch.zeros(2, len(shifts), 3),
    )


def grad(decoded: Decoded, name: str, ambiguous: torch.Tensor) -> list[bool]:
    """Which masks of the first prompt have a gradient of this loss."""
    losses = supervised_losses(decoded, TRUTH, VALID, ambiguous, SUPERVISED)
    field = decoded.predicted_iou if name == "iou" else decoded.low_res_logits
    (found,) = torch.autograd.grad(losses[name].sum(), field)
    return [bool((found[0, mask] != 0).any()) for mask in range(found.shape[1])]


@pytest.mark.parametrize(
    ("labels", "ambiguous"),
    [
        ([1, -1], True),
        ([1, -2], True),
        ([0, -1], False),  # background alone points at nothing
        ([2, 3], False),
        ([1, 1, -1], False),
        ([1, 0, -1], False),
        ([2, 3, 1], False),
    ],
)
def test_one_foreground_point_alone_is_ambiguous(labels: list[int], ambiguous: bool) -> None:
    given = torch.tensor([labels])
    assert is_ambiguous(given, None).item() == ambiguous
    assert is_ambiguous(given, torch.tensor([False])).item() == ambiguous
    assert not is_ambiguous(given, torch.tensor([True])).item()


@pytest.mark.parametrize("name", ["focal", "dice"])
def test_the_one_mask_and_the_best_of_three_learn(name: str) -> None:
    assert grad(answers(2, 3, 1, 2), name, BOTH) == [True, False, True, False]
    assert grad(answers(2, 1, 3, 2), name, BOTH) == [True, True, False, False]


def test_every_one_of_the_three_learns_its_own_iou() -> None:
    assert grad(answers(2, 3, 1, 2), "iou", BOTH) == [True] * 4


@pytest.mark.parametrize("name", ["focal", "dice", "iou"])
def test_a_clear_prompt_has_one_mask(name: str) -> None:
    assert grad(answers(2, 0, 0, 0), name, NONE) == [True, False, False, False]


def test_values_by_hand() -> None:
    decoded = answers(2, 3, 1, 2)
    only_first = torch.tensor([True, False])
    losses = supervised_losses(decoded, TRUTH, VALID, only_first, SUPERVISED)
    masks = [upscaled(decoded.low_res_logits[:, [k]], 32)[:, 0] for k in range(4)]
    for name, loss in (("focal", focal), ("dice", dice)):
        one = loss(masks[0], TRUTH, VALID).tolist()
        best = loss(masks[2], TRUTH, VALID).tolist()
        assert losses[name].tolist() == pytest.approx([(one[0] + best[0]) / 2, one[1]])
    errors = [(0.5 - measured_iou(mask, TRUTH, VALID)) ** 2 for mask in masks]
    mean = sum(float(error[0]) for error in errors[1:]) / 3
    assert losses["iou"].tolist() == pytest.approx(
        [(float(errors[0][0]) + mean) / 2, float(errors[0][1])]
    )
    assert losses["train_iou"].equal(measured_iou(masks[0], TRUTH, VALID))


def test_the_measured_iou_is_regressed_as_it_is() -> None:
    """Not through a sigmoid: predictions below 0 and above 1 are errors like any other."""
    decoded = answers(0)._replace(predicted_iou=torch.tensor([[1.5], [-0.5]]))
    losses = supervised_losses(decoded, TRUTH, VALID, NONE, SUPERVISED)
    measured = losses["train_iou"]
    assert losses["iou"].tolist() == pytest.approx(
        [(1.5 - measured[0].item()) ** 2, (-0.5 - measured[1].item()) ** 2]
    )


def test_the_best_is_chosen_by_the_weighted_losses_of_valid_pixels() -> None:
    valid = VALID.clone()
    valid[:, :, 20:] = 0  # there the second of the three is wrong
    decoded = answers(0, 2, 2, 2)
    logits = decoded.low_res_logits.detach().clone()
    logits[:, 2] = logits[:, 0]
    logits[:, 2, :, 6:] = 9.0
    moved = decoded._replace(low_res_logits=logits.requires_grad_())
    losses = supervised_losses(moved, TRUTH, valid, BOTH, SUPERVISED)
    (found,) = torch.autograd.grad(losses["dice"].sum(), logits)
    assert (found[0, 2] != 0).any()
    assert not (found[0, [1, 3]] != 0).any()


def test_a_person_goes_on_with_the_mask_of_the_highest_predicted_iou() -> None:
    decoded = answers(0, 1, 2, 3)._replace(
        predicted_iou=torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.9, 0.1, 0.2, 0.3]])
    )
    chosen = most_confident(decoded, torch.tensor([True, False]))
    assert chosen.shape == (2, 1, 8, 8)
    assert chosen[0, 0].equal(decoded.low_res_logits[0, 2])
    assert chosen[1, 0].equal(decoded.low_res_logits[1, 0])
    assert not chosen.requires_grad
    lone = Decoded(*(field[:, :1] for field in decoded))
    assert most_confident(lone, BOTH)[0, 0].equal(decoded.low_res_logits[0, 0])
