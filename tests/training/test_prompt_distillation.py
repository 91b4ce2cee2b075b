"""Prompt in the loop: answers of student and teacher to the same prompts."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mobile_sam.config.losses import PROMPT_LOSSES
from mobile_sam.models.mask_decoder import Decoded
from mobile_sam.training.losses import FUNCTIONS, mask_bce, mask_dice, mask_tokens, predicted_iou
from mobile_sam.training.step import encode, prompt_losses
from tests.helpers.training_steps import (
    batch,
    course_of_descent,
    decoded,
    encoder_gradient,
    own_decoder,
    teacher_decoder,
    training_module,
)

LOGIT = math.log(3.0)  # probability 3/4
EVERYWHERE = torch.ones(3, 1, 8, 8)


def answers(*logits: float) -> Decoded:
    """One prompt with one mask of some pixels in a row, and nothing else."""
    pixels = torch.tensor(logits).view(1, 1, 1, -1)
    return Decoded(pixels, torch.zeros(1, 1), torch.zeros(1, 1, 2))


def test_mask_bce_by_hand() -> None:
    """Student 1/2, teacher 3/4: 3/4 log(3/2) + 1/4 log(1/2); the second pixel is padding."""
    valid = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    loss = mask_bce(answers(0.0, 5.0), answers(LOGIT, -5.0), valid)
    assert loss.tolist() == pytest.approx([0.75 * math.log(1.5) + 0.25 * math.log(0.5)])


def test_mask_dice_by_hand() -> None:
    loss = mask_dice(answers(0.0, 0.0), answers(LOGIT, LOGIT), torch.ones(1, 1, 1, 2))
    overlap, total = 2 * 0.5 * 0.75, 2 * (0.25 + 0.5625)
    assert loss.tolist() == pytest.approx([1 - (2 * overlap + 1) / (total + 1)], rel=1e-5)


def test_tokens_and_iou_by_hand() -> None:
    first = Decoded(torch.zeros(1, 2, 1, 1), torch.tensor([[0.5, 0.9]]), torch.zeros(1, 2, 3))
    second = Decoded(torch.zeros(1, 2, 1, 1), torch.tensor([[0.7, 0.9]]), torch.ones(1, 2, 3))
    assert mask_tokens(first, second, torch.ones(1)).tolist() == pytest.approx([1.0])
    assert predicted_iou(first, second, torch.ones(1)).tolist() == pytest.approx([0.02])


@pytest.mark.parametrize("name", PROMPT_LOSSES)
def test_each_is_least_where_both_answer_the_same(name: str) -> None:
    """Also where the teacher is unsure, which plain cross-entropy and Dice do not have."""
    teacher, loss = decoded(0), FUNCTIONS[name]
    assert loss(teacher, teacher, EVERYWHERE).tolist() == pytest.approx([0] * 3, abs=1e-6)
    for seed in range(1, 20):
        moved = Decoded(*(a + 0.1 * (b - a) for a, b in zip(teacher, decoded(seed), strict=True)))
        assert (loss(moved, teacher, EVERYWHERE) > 0).all()


@pytest.mark.parametrize("loss", [mask_bce, mask_dice])
def test_padding_is_not_compared(loss: Callable[[Decoded, Decoded, Tensor], Tensor]) -> None:
    student, teacher, valid = decoded(0), decoded(1), EVERYWHERE.clone()
    valid[..., 4:] = 0
    elsewhere = student.low_res_logits.clone()
    elsewhere[..., 4:] = 9.0
    moved = student._replace(low_res_logits=elsewhere)
    assert loss(moved, teacher, valid).equal(loss(student, teacher, valid))


def test_all_four_masks_of_a_prompt_are_compared() -> None:
    teacher = decoded(0)
    for mask in range(4):
        logits = teacher.low_res_logits.clone()
        logits[:, mask] += 1
        moved = teacher._replace(low_res_logits=logits)
        assert (mask_bce(moved, teacher, EVERYWHERE) > 0).all()


def test_teachers_count_by_their_shares() -> None:
    student, first, second = decoded(0), decoded(1), decoded(2)
    found = prompt_losses(student, [(0.75, first), (0.25, second)], EVERYWHERE[:, 0], ["mask_bce"])
    expected = 0.75 * mask_bce(student, first, EVERYWHERE)
    expected += 0.25 * mask_bce(student, second, EVERYWHERE)
    assert torch.allclose(found["distill_mask_bce"], expected)


@pytest.mark.parametrize("name", PROMPT_LOSSES)
def test_each_reaches_the_encoder_and_not_the_teacher(name: str) -> None:
    teacher = teacher_decoder()
    model = training_module(teachers=(teacher,), truth_losses={}, prompt_losses={name: 1.0}).train()
    losses = model(batch())
    assert set(losses) == {f"distill_{name}", "distillation", "loss"}
    losses["loss"].sum().backward()
    assert encoder_gradient(model) > 0
    assert not any(p.requires_grad for p in teacher._teacher.parameters())
    assert not any("teacher" in key for key in model.state_dict())


@pytest.mark.parametrize("name", PROMPT_LOSSES)
def test_a_student_that_is_the_teacher_has_no_loss(name: str) -> None:
    model = training_module(truth_losses={}, prompt_losses={name: 1.0}).eval()
    model.decoders = (own_decoder(model),)
    sample = batch()
    with torch.no_grad():
        embedding = encode(model.student, sample)
    losses = model(sample._replace(teacher={"neck": embedding}))
    assert losses["loss"].tolist() == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("name", PROMPT_LOSSES)
def test_descending_from_a_perturbed_student_comes_back(name: str) -> None:
    torch.manual_seed(0)
    model = training_module(truth_losses={}, prompt_losses={name: 1.0}).train()
    model.decoders = (own_decoder(model),)
    course = course_of_descent(model, model.student, noise=0.2, steps=60)
    assert course[-1] < 0.05 * course[0]
