"""Each loss: its value by hand, and its gradient in the student's encoder."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mobile_sam.config import ConfigError
from mobile_sam.data.dataset import Sample
from mobile_sam.models.build import build_sam_model
from mobile_sam.options import DistillLosses, LossWeights, level_name
from mobile_sam.training.distillation import Distiller, cosine, mse
from mobile_sam.training.learner import Learner, total_loss
from mobile_sam.training.losses import dice, focal, iou_error, measured_iou

LOGIT = math.log(3.0)  # probability 3/4
ONES = torch.ones(1, 1, 2)


def test_focal_by_hand() -> None:
    logits, truth = torch.full((1, 1, 2), LOGIT), torch.tensor([[[1.0, 0.0]]])
    right = 0.25 * 0.25**2 * -math.log(0.75)
    wrong = 0.75 * 0.75**2 * -math.log(0.25)
    assert focal(logits, truth, ONES).item() == pytest.approx((right + wrong) / 2, rel=1e-5)


def test_dice_by_hand() -> None:
    logits, truth = torch.full((1, 1, 2), LOGIT), torch.tensor([[[1.0, 0.0]]])
    expected = 1 - (2 * 0.75 + 1) / (1.5 + 1 + 1)
    assert dice(logits, truth, ONES).item() == pytest.approx(expected)


def test_iou_error_by_hand() -> None:
    measured = torch.tensor([0.5], requires_grad=True)
    guess = torch.tensor([0.8], requires_grad=True)
    loss = iou_error(guess, measured)
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


def test_mse_and_cosine_by_hand() -> None:
    student = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    teacher = torch.tensor([4.0, 3.0]).view(1, 2, 1, 1)
    assert mse(student, teacher).item() == pytest.approx(1.0)
    assert cosine(student, teacher).item() == pytest.approx(1 - 24 / 25)


def test_a_distiller_sums_its_weighted_losses() -> None:
    student, teacher = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    distiller = Distiller(DistillLosses(mse=2.0, cosine=3.0), 8, {"neck": None}, seed=0)
    expected = 2 * mse(student, teacher) + 3 * cosine(student, teacher)
    assert torch.allclose(distiller(student, {"neck": teacher}), expected)


def test_several_levels_count_as_their_mean_each_with_a_projection_of_its_own() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 8, 4, 4)
    teacher = {"neck": torch.randn(2, 8, 4, 4), "block_3": torch.randn(2, 5, 4, 4)}
    distiller = Distiller(DistillLosses(), 8, {"neck": None, "block_3": 5}, seed=0)
    projected = distiller.projections["block_3"](student)
    pairs = [(student, teacher["neck"]), (projected, teacher["block_3"])]
    expected = sum(mse(*pair) + cosine(*pair) for pair in pairs) / 2
    assert torch.allclose(distiller(student, teacher), expected)
    alone = Distiller(DistillLosses(), 8, {"block_3": 5}, seed=0)
    assert torch.equal(alone.projections["block_3"].weight, distiller.projections["block_3"].weight)


def test_shapes_that_differ_are_an_error_and_never_resized() -> None:
    distiller = Distiller(DistillLosses(), 8, {"neck": None}, seed=0)
    with pytest.raises(ConfigError, match=r"\(1, 8, 2, 2\), the student gives \(1, 8, 4, 4\)"):
        distiller(torch.randn(1, 8, 4, 4), {"neck": torch.randn(1, 8, 2, 2)})


@pytest.mark.parametrize("name", ["mse", "cosine"])
def test_distillation_is_minimal_at_the_teacher(name: str) -> None:
    weights = DistillLosses(**{"mse": 0.0, "cosine": 0.0, name: 1.0})
    distiller = Distiller(weights, 8, {"neck": None}, seed=0)
    teacher = torch.randn(2, 8, 4, 4)
    at_teacher = distiller(teacher, {"neck": teacher}).item()
    assert at_teacher == pytest.approx(0.0, abs=1e-6)
    perturbed = teacher + 0.1 * torch.randn_like(teacher)
    assert distiller(perturbed, {"neck": teacher}).item() > at_teacher


def batch(level: str | int = "neck") -> Sample:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(2, 2, 64, 64, dtype=torch.bool)
    masks[..., 10:40, 20:50] = True
    return Sample(
        position=torch.arange(2),
        image=torch.randn(2, 3, 64, 64, generator=generator),
        valid=torch.ones(2, 64, 64, dtype=torch.bool),
        masks=masks,
        points=torch.tensor([[[20.0, 10.0], [50.0, 40.0]], [[30.0, 20.0], [0.0, 0.0]]]).repeat(
            2, 1, 1, 1
        ),
        labels=torch.tensor([[2, 3], [1, -1]]).repeat(2, 1, 1),
        teacher={
            level_name(level): torch.randn(
                2, 32 if level == "neck" else 48, 4, 4, generator=generator
            )
        },
    )


def learner(level: str | int = "neck", weights: DistillLosses | None = None) -> Learner:
    levels = {level_name(level): None if level == "neck" else 48}
    distiller = Distiller(weights or DistillLosses(), 32, levels, seed=0)
    return Learner(build_sam_model("tiny_sam", 64), distiller)


def encoder_gradient(model: Learner) -> float:
    gradients = [p.grad for p in model.student.image_encoder.parameters()]
    return sum(float(g.abs().sum()) for g in gradients if g is not None)


@pytest.mark.parametrize("name", ["focal", "dice", "iou", "distillation"])
def test_every_loss_reaches_the_encoder(name: str) -> None:
    model = learner()
    model(batch(), supervised=True, distil=True)[name].backward()
    assert encoder_gradient(model) > 0


@pytest.mark.parametrize("name", ["mse", "cosine"])
@pytest.mark.parametrize("level", ["neck", 1])
def test_every_distillation_loss_reaches_the_encoder(name: str, level: str | int) -> None:
    model = learner(level, DistillLosses(**{"mse": 0.0, "cosine": 0.0, name: 1.0}))
    sample = batch(level)
    model(sample, supervised=False, distil=True)["distillation"].backward()
    assert encoder_gradient(model) > 0
    if level != "neck":
        assert model.distiller.projections[level_name(level)].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["mse", "cosine"])
def test_descending_from_a_perturbed_student_comes_back(name: str) -> None:
    torch.manual_seed(0)
    model = learner(weights=DistillLosses(**{"mse": 0.0, "cosine": 0.0, name: 1.0}))
    model.train()  # random weights without normalisation give embeddings of mere noise
    sample = batch()
    with torch.no_grad():
        teacher = model.student.image_encoder(sample.image)
        for parameter in model.student.image_encoder.parameters():
            parameter.add_(0.1 * parameter.abs().mean() * torch.randn_like(parameter))
    optimizer = torch.optim.Adam(model.student.image_encoder.parameters(), lr=1e-3)
    course = []
    for _ in range(40):
        loss = model.distiller(model.student.image_encoder(sample.image), {"neck": teacher})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(loss.item())
    assert course[-1] < 0.02 * course[0]


def test_the_total_is_the_weighted_sum() -> None:
    losses = {
        name: torch.tensor(value)
        for name, value in (
            ("focal", 1.0),
            ("dice", 2.0),
            ("iou", 3.0),
            ("distillation", 4.0),
            ("train_iou", 99.0),
        )
    }
    assert total_loss(losses, LossWeights(focal=2, dice=3, iou=5), 0.5).item() == 2 + 6 + 15 + 2


def test_the_encoder_runs_once_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = learner(), []
    model.student.image_encoder.register_forward_hook(
        lambda m, args, out: seen.append(len(args[0]))
    )
    model(batch(), supervised=True, distil=True)
    assert seen == [2]


def test_a_mask_prompt_reaches_the_mask_branch_and_the_encoder() -> None:
    model, plain = learner(), batch()
    sample = plain._replace(
        mask_prompts=torch.randn(2, 2, 1, 16, 16), has_mask=torch.tensor([[True, False]] * 2)
    )
    losses = model(sample, supervised=True, distil=False)
    losses["focal"].backward()
    branch = model.student.prompt_encoder.mask_downscaling.parameters()
    assert all(float(p.grad.abs().sum()) > 0 for p in branch)
    assert encoder_gradient(model) > 0
    nowhere = sample._replace(has_mask=torch.zeros(2, 2, dtype=torch.bool))
    without = model(plain, supervised=True, distil=False)
    assert model(nowhere, supervised=True, distil=False)["focal"].equal(without["focal"])
