"""The truth and a prompt's masks: one for clear prompts, the best of three for single points."""

import pytest
import torch

from mobile_sam.models.mask_decoder import Decoded
from mobile_sam.training.losses import dice, focal, measured_iou
from mobile_sam.training.step import is_ambiguous, most_confident, truth_losses, upscale_logits
from tests.helpers.training_steps import SUPERVISED

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
    losses = truth_losses(decoded, TRUTH, VALID, ambiguous, SUPERVISED)
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
    losses = truth_losses(decoded, TRUTH, VALID, only_first, SUPERVISED)
    masks = [upscale_logits(decoded.low_res_logits[:, [k]], 32)[:, 0] for k in range(4)]
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
    losses = truth_losses(decoded, TRUTH, VALID, NONE, SUPERVISED)
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
    losses = truth_losses(moved, TRUTH, valid, BOTH, SUPERVISED)
    (found,) = torch.autograd.grad(losses["dice"].sum(), logits)
    assert (found[0, 2] != 0).any()
    assert not (found[0, [1, 3]] != 0).any()


FRAME, DISCS = 64, 20


def disc(centre: torch.Tensor, radius: float) -> torch.Tensor:
    """Pixels (FRAME, FRAME) of a disc."""
    places = torch.arange(FRAME) + 0.5
    return ((places - centre[0]) ** 2 + (places[:, None] - centre[1]) ** 2 < radius**2).float()


def fitted(masks: torch.Tensor) -> torch.Tensor:
    """low_res_logits (N, 1, FRAME/4, FRAME/4) that give masks (N, FRAME, FRAME) as well as any."""
    masks = masks[:, None]
    logits = (8 * torch.nn.functional.avg_pool2d(masks, 4) - 4).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=1.0)
    for _ in range(30):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            upscale_logits(logits, FRAME), masks
        )
        (logits.grad,) = torch.autograd.grad(loss, logits)
        optimizer.step()
    return logits.detach()


@pytest.mark.parametrize("radius", [2, 3, 4, 6, 8, 12, 16])
def test_the_best_is_chosen_at_the_resolution_of_the_truth(radius: int) -> None:
    """Of discs anywhere, the mask of the right size learns, not one that is 1.4 times as large.

    At a quarter of the resolution, small ones that are too large look right.
    """
    rng = torch.Generator().manual_seed(radius)
    centres = 23 + 18 * torch.rand(DISCS, 2, generator=rng)
    truth = torch.stack([disc(centre, radius) for centre in centres])
    right = fitted(truth)
    too_large = fitted(torch.stack([disc(centre, 1.4 * radius) for centre in centres]))
    low_res_logits = torch.cat([right, too_large, right, too_large], dim=1).requires_grad_()
    decoded = Decoded(low_res_logits, torch.zeros(DISCS, 4), torch.zeros(DISCS, 4, 1))
    ambiguous, valid = torch.ones(DISCS, dtype=torch.bool), torch.ones_like(truth)
    losses = truth_losses(decoded, truth, valid, ambiguous, SUPERVISED)
    (found,) = torch.autograd.grad(losses["dice"].sum() + losses["focal"].sum(), low_res_logits)
    learning = (found != 0).flatten(2).any(2)
    assert learning.sum(0).tolist() == [DISCS, 0, DISCS, 0]


def test_a_loss_of_weight_0_has_no_gradient() -> None:
    decoded = answers(2, 3, 1, 2)
    weights = SUPERVISED | {"focal": 0.0, "iou": 0.0}
    losses = truth_losses(decoded, TRUTH, VALID, BOTH, weights)
    known = truth_losses(decoded, TRUTH, VALID, BOTH, SUPERVISED | {"focal": 1e-9})
    assert [name for name, loss in losses.items() if loss.requires_grad] == ["dice"]
    assert all(torch.equal(losses[name], known[name]) for name in ("dice", "iou", "train_iou"))


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
