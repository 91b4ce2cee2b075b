"""Mask losses at points: where the points lie, what the losses are, and what they depend on."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.config.losses import LossWeights
from mobile_sam.models.mask_decoder import Decoded
from mobile_sam.training import mask_points
from mobile_sam.training.losses import FUNCTIONS, focal
from mobile_sam.training.mask_points import (
    at_points,
    logits_at_pixels,
    losses_at_points,
    pixels_to_choose_from,
    random_pixels,
    select_points,
)
from mobile_sam.training.step import truth_losses, upscale_logits
from tests.helpers.training_steps import (
    SUPERVISED,
    batch,
    encoder_gradient,
    losses_and_gradients,
    training_module,
)

SIDE = 64
MASK_LOSSES = dict.fromkeys(LossWeights.names("mask"), 1.0)
EVERY_PIXEL = torch.arange(SIDE**2)


def square(side: int, first: int, length: int) -> Tensor:
    """One mask (1, side, side)."""
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, first : first + length, first : first + length] = True
    return mask


def pixels_of(truth: Tensor, points: int) -> Tensor:
    """Random pixels of prompts of one image, masks (N, S, S), as wide as the frame."""
    size = torch.full((1, 2), truth.shape[-1])
    return random_pixels(truth[None], size, torch.tensor([5]), 0, 0, points)[0]


def drawn(mask: Tensor, size: tuple[int, int], count: int) -> tuple[NDArray[np.int64], ...]:
    """Rows and columns (count,) of random pixels of a mask (1, S, S)."""
    rng = np.random.default_rng(3)
    return np.divmod(pixels_to_choose_from(mask[0].numpy(), size, count, rng), SIDE)


def noise(masks: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(masks, SIDE // 4, SIDE // 4, generator=generator).requires_grad_()


def test_logits_at_pixels_are_those_of_the_upscaled_mask() -> None:
    logits = noise(2)
    expected = upscale_logits(logits[:, None], SIDE)[:, 0].flatten(1)
    assert torch.allclose(
        logits_at_pixels(logits, EVERY_PIXEL.repeat(2, 1), SIDE), expected, atol=1e-6
    )


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_at_all_pixels_a_loss_is_that_of_the_whole_mask(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a loss that is added later: one that looks at neighbours needs a row in `IN_REGIONS`."""
    monkeypatch.setattr(mask_points, "select_points", lambda *_: EVERY_PIXEL[None])
    truth, valid, logits = square(SIDE, 20, 16), torch.ones(1, SIDE, SIDE).bool(), noise()
    valid[:, :, 30:] = False
    (found,) = losses_at_points(logits, truth, valid, {name: 1.0}, torch.empty(0)).values()
    whole = upscale_logits(logits[:, None], SIDE)[:, 0]
    expected = FUNCTIONS[name](whole, truth.float(), valid.float())
    assert torch.allclose(found, expected)
    gradient, of_whole = (torch.autograd.grad(x.sum(), logits)[0] for x in (found, expected))
    assert torch.allclose(gradient, of_whole, atol=1e-6)


def test_focal_at_two_points_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pixel in the object, one outside, in a mask whose logit is 0.5 everywhere."""
    pixels = torch.tensor([[20 * SIDE + 20, 0]])
    monkeypatch.setattr(mask_points, "select_points", lambda *_: pixels)
    logits, valid = torch.full((1, 16, 16), 0.5), torch.ones(1, SIDE, SIDE).bool()
    found = losses_at_points(logits, square(SIDE, 20, 16), valid, MASK_LOSSES, torch.empty(0))
    p = torch.sigmoid(torch.tensor(0.5))
    inside, outside = -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
    assert found["focal"].item() == pytest.approx(((inside + outside) / 2).item())
    assert found["dice"].item() == pytest.approx((1 - (2 * p + 1) / (2 * p + 2)).item())


def test_every_second_pixel_is_near_the_object_and_the_others_are_in_the_image() -> None:
    for places, length in zip(drawn(square(SIDE, 20, 10), (48, 64), 40_000), (48, 64), strict=True):
        image, near = places[::2], places[1::2]
        assert np.unique(image).tolist() == list(range(length))
        assert np.unique(near).tolist() == list(range(15, 35))
        counts = np.bincount(image)
        assert counts.max() < 1.4 * counts.min()


def test_without_an_object_pixels_are_anywhere_in_the_image() -> None:
    y, x = drawn(square(SIDE, 0, 0), (48, 40), 4000)
    assert np.unique(y).tolist() == list(range(48))
    assert np.unique(x).tolist() == list(range(40))


@pytest.mark.parametrize("first", [0, 500, 1018])
def test_an_object_of_6_pixels_in_1024_has_hundreds_of_points(first: int) -> None:
    """Also where the model is sure of the wrong answer, and is uncertain somewhere else."""
    truth, valid = square(1024, first, 6), torch.ones(1, 1024, 1024).bool()
    logits = torch.full((1, 256, 256), -9.0)
    logits[:, 100:120, 100:120] = 0.0
    pixels = pixels_of(truth, 12_544)
    uniform = torch.randint(1024**2, (1, 12_544), generator=torch.Generator().manual_seed(0))
    assert at_points(truth, uniform).sum() < 5
    assert at_points(truth, select_points(logits, valid, pixels)).sum() > 25
    logits[:, first // 4 : first // 4 + 2, first // 4 : first // 4 + 2] = 0.1
    assert at_points(truth, select_points(logits, valid, pixels)).sum() > 100


def test_three_quarters_of_the_points_are_the_most_uncertain_candidates() -> None:
    logits, valid = torch.full((1, 16, 16), 9.0), torch.ones(1, SIDE, SIDE).bool()
    logits[:, :8] = 0.1
    pixels = select_points(logits, valid, pixels_of(square(SIDE, 20, 24), 400))
    assert pixels.shape == (1, 400)
    assert (pixels[:, :300] // SIDE < 34).all()
    assert (pixels[:, 300:] // SIDE >= 34).any()


def test_pixels_that_are_not_valid_count_in_no_loss() -> None:
    truth, valid = square(SIDE, 20, 16), torch.ones(1, SIDE, SIDE).bool()
    valid[:, :, 40:] = False
    logits = noise().detach()
    elsewhere = logits.clone()
    elsewhere[:, :, 11:] = -9.0  # reaches column 42 and later ones
    found, same = (
        losses_at_points(x, truth, valid, MASK_LOSSES, pixels_of(truth, 200))
        for x in (logits, elsewhere)
    )
    assert all(torch.equal(found[name], same[name]) for name in MASK_LOSSES)


def test_pixels_depend_on_sample_place_and_round() -> None:
    masks, size = square(SIDE, 20, 16).repeat(2, 3, 1, 1), torch.full((2, 2), SIDE)
    seeds = torch.tensor([3, 4])
    rounds = [random_pixels(masks, size, seeds, 0, number, 16) for number in range(2)]
    assert len(torch.stack(rounds).flatten(0, 2).unique(dim=0)) == 12
    alone = random_pixels(masks[1:, 1:], size[1:], seeds[1:], 1, 1, 16)
    assert torch.equal(alone[0], rounds[1][1, 1:])


def test_the_iou_and_the_choice_of_the_best_are_those_of_whole_masks() -> None:
    generator = torch.Generator().manual_seed(1)
    truth, valid = square(SIDE, 20, 16).repeat(5, 1, 1), torch.ones(5, SIDE, SIDE).bool()
    decoded = Decoded(
        torch.randn(5, 4, 16, 16, generator=generator).requires_grad_(),
        torch.rand(5, 4, generator=generator).requires_grad_(),
        torch.zeros(5, 4, 3),
    )
    ambiguous = torch.tensor([True, True, False, True, True])
    whole = truth_losses(decoded, truth.float(), valid.float(), ambiguous, SUPERVISED)
    sampled = truth_losses(decoded, truth, valid, ambiguous, SUPERVISED, pixels_of(truth, 504))
    for name in ("iou", "train_iou"):
        assert torch.equal(whole[name], sampled[name])
    learning = [
        (torch.autograd.grad(x["dice"].sum(), decoded.low_res_logits)[0] != 0).flatten(2).any(2)
        for x in (whole, sampled)
    ]
    assert torch.equal(*learning)


def test_a_loss_of_weight_0_has_no_gradient() -> None:
    weights = MASK_LOSSES | {"focal": 0.0}
    valid = torch.ones(1, SIDE, SIDE).bool()
    truth = square(SIDE, 20, 16)
    losses = losses_at_points(noise(), truth, valid, weights, pixels_of(truth, 104))
    assert {name: x.requires_grad for name, x in losses.items()} == {
        name: weight > 0 for name, weight in weights.items()
    }


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_every_loss_at_points_reaches_the_encoder(name: str) -> None:
    model = training_module(truth_losses={name: 1.0}, mask_loss_points=104).train()
    model(batch())["loss"].sum().backward()
    assert encoder_gradient(model) > 0


def test_points_do_not_depend_on_the_chunks_of_the_decoder() -> None:
    sample, found = batch(), []
    for decoder_chunk_size in (100, 2):
        model = training_module(
            mask_loss_points=104, prompt_rounds=2, decoder_chunk_size=decoder_chunk_size
        )
        found.append(losses_and_gradients(model, sample))
    (whole, of_whole), (parts, of_parts) = found
    for name, loss in whole.items():
        assert torch.allclose(parts[name], loss, rtol=1e-9), name
    for name, gradient in of_whole.items():
        assert torch.allclose(of_parts[name], gradient, rtol=1e-6, atol=1e-9), name


def test_focal_is_larger_at_points_because_uncertain_pixels_have_more_weight() -> None:
    truth, valid = square(SIDE, 28, 6), torch.ones(1, SIDE, SIDE).bool()
    logits = torch.full((1, 16, 16), -9.0)
    logits[:, 6:10, 6:10] = -0.5
    whole = focal(upscale_logits(logits[:, None], SIDE)[:, 0], truth.float(), valid.float())
    found = losses_at_points(logits, truth, valid, MASK_LOSSES, pixels_of(truth, 200))["focal"]
    assert found > 2 * whole
