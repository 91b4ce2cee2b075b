"""Corrective clicks: where they land, and that nothing but their own sample moves them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mobile_sam.data.masks import Mask
from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.training.clicks import click, largest_region, with_clicks
from mobile_sam.training.step import decode_round, encode
from tests.helpers.training_steps import batch, encoder_gradient, training_module

NOTHING, ANYWHERE = np.zeros((16, 16), dtype=bool), np.ones((16, 16), dtype=bool)


def square(y: int, x: int, side: int) -> Mask:
    mask = NOTHING.copy()
    mask[y : y + side, x : x + side] = True
    return mask


def clicked(missed: Mask, extra: Mask, truth: Mask) -> set[tuple[int, int, int]]:
    return {
        click(missed, extra, truth, ANYWHERE, np.random.default_rng(seed)) for seed in range(200)
    }


def test_a_click_lands_in_the_largest_error_region() -> None:
    truth = square(0, 0, 8)
    small, large = square(0, 0, 2), square(4, 4, 3)
    assert {found[:2] for found in clicked(small | large, NOTHING, truth)} == {
        (x, y) for x in (4, 5, 6) for y in (4, 5, 6)
    }
    assert {found[2] for found in clicked(large, small, truth)} == {1}  # missed: foreground
    assert {found[2] for found in clicked(small, large, truth)} == {0}  # extra: background


def test_many_scattered_errors_are_less_than_one_large_one() -> None:
    scattered = NOTHING.copy()
    scattered[::2, ::2] = True  # 64 pixels, none of which touches another
    assert {found[2] for found in clicked(scattered, square(1, 1, 2), square(0, 0, 4))} == {0}


def test_of_equally_large_errors_the_missed_one_is_clicked() -> None:
    found = clicked(square(0, 0, 2), square(8, 8, 2), square(0, 0, 4))
    assert {label for _, _, label in found} == {1}


def test_without_an_error_the_segment_is_clicked() -> None:
    found = clicked(NOTHING, NOTHING, square(3, 5, 2))
    assert found == {(x, y, 1) for x in (5, 6) for y in (3, 4)}


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    diagonal = np.eye(16, dtype=bool)
    assert len(largest_region(diagonal)) == 16
    assert largest_region(NOTHING).shape == (0, 2)


@given(
    seed=st.integers(0, 2**32),
    share=st.floats(0, 1),
    wrong=st.floats(0, 1),
)
def test_a_click_says_the_truth_where_the_prediction_does_not(
    seed: int, share: float, wrong: float
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((16, 16)) < share
    truth[rng.integers(16), rng.integers(16)] = True
    prediction = truth ^ (rng.random((16, 16)) < wrong)
    missed, extra = truth & ~prediction, prediction & ~truth
    x, y, label = click(missed, extra, truth, ANYWHERE, rng)
    assert truth[y, x] == (label == 1)
    if (missed | extra).any():
        assert prediction[y, x] != truth[y, x]
        largest = max(len(largest_region(missed)), len(largest_region(extra)))
        region = largest_region(missed if label == 1 else extra)
        assert len(region) == largest
        assert [x, y] in region.tolist()


def test_where_a_teacher_sees_nothing_the_background_is_clicked() -> None:
    valid = square(0, 0, 4)
    found = {
        click(NOTHING, NOTHING, NOTHING, valid, np.random.default_rng(seed)) for seed in range(200)
    }
    assert found == {(x, y, 0) for x in range(4) for y in range(4)}


def predicted(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """The masks of the sample, 5 pixels too far to the right and below, and their logits."""
    masks = sample.masks.roll((5, 5), (2, 3))
    return torch.where(masks, 8.0, -8.0)[:, :, None, ::4, ::4], masks


def test_the_next_round_sees_the_click_and_the_prediction() -> None:
    sample = batch()
    low_res_logits, masks = predicted(sample)
    after = with_clicks(sample, low_res_logits.requires_grad_(), masks, sample.masks, number=0)
    assert torch.equal(after.points[:, :, :2], sample.points)
    assert torch.equal(after.labels[:, :, :2], sample.labels)
    assert torch.equal(after.mask_prompts, low_res_logits)
    assert not after.mask_prompts.requires_grad
    assert after.has_mask.all()
    x, y = after.points[..., 2, :].long().unbind(-1)
    told = after.labels[..., 2] == 1
    first, second = torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")
    assert torch.equal(sample.masks[first, second, y, x], told)
    assert torch.equal(masks[first, second, y, x], ~told)


def test_clicks_go_to_the_target_whatever_the_truth_is() -> None:
    sample = batch()
    low_res_logits, masks = predicted(sample)
    after = with_clicks(sample, low_res_logits, masks, masks.roll(20, 3), number=0)
    x, y = after.points[..., 2, :].long().unbind(-1)
    first, second = torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")
    assert torch.equal(masks.roll(20, 3)[first, second, y, x], after.labels[..., 2] == 1)


def test_padding_is_no_error() -> None:
    sample = batch()
    sample.valid[:, :, 50:] = False  # the masks end at column 50
    masks = sample.masks.clone()
    masks[..., 50:] = True
    low_res_logits = torch.zeros(2, 2, 1, 16, 16)
    after = with_clicks(sample, low_res_logits, masks, sample.masks, number=0)
    assert (after.labels[..., 2] == 1).all()
    assert (after.points[..., 2, 0] < 50).all()


def test_a_click_knows_nothing_of_its_batch() -> None:
    sample = batch()
    low_res_logits, masks = predicted(sample)
    together = with_clicks(sample, low_res_logits, masks, sample.masks, number=1)
    fields = {
        name: value[1:]
        for name, value in sample._asdict().items()
        if name != "teacher" and len(value)
    }
    one = sample._replace(**fields)
    alone = with_clicks(one, low_res_logits[1:], masks[1:], one.masks, number=1)
    assert torch.equal(alone.points[0], together.points[1])
    other_round = with_clicks(sample, low_res_logits, masks, sample.masks, number=2)
    other_seed = sample._replace(seed=torch.tensor([5, 6]))
    for other in (
        other_round,
        with_clicks(other_seed, low_res_logits, masks, sample.masks, number=1),
    ):
        assert not torch.equal(other.points, together.points)


@pytest.mark.parametrize("rounds", [2, 3])
def test_every_round_counts_and_reaches_the_encoder(rounds: int) -> None:
    """By hand: the rounds one after another, each on the batch that the clicks of the last made."""
    model, sample = training_module(prompt_rounds=rounds).train(), batch()
    losses = model(sample)
    embedding = encode(model.student, sample)
    each = []
    for number in range(rounds):
        answers = decode_round(model.student, (), model.objective, embedding, sample)
        each.append(answers.losses["focal"].mean(1))
        sample = with_clicks(
            sample, answers.low_res_logits, answers.predicted, answers.target, number
        )
    assert torch.allclose(losses["focal"], torch.stack(each).mean(0))
    for loss in each:
        model.zero_grad()
        loss.sum().backward(retain_graph=True)
        assert encoder_gradient(model) > 0
    assert not torch.equal(each[0], each[1])
