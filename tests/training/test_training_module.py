"""One step: the total, its gradient, and what of a batch and a stage it looks at."""

from dataclasses import replace

import pytest
import torch

from mobile_sam.options import FEATURE_LOSSES, PROMPT_LOSSES, LossWeights
from mobile_sam.schedule import normalise
from mobile_sam.training.objective import objective, weighted
from mobile_sam.training.rounds import answer_prompts, decode
from tests.test_schedule import entry, run
from tests.training.steps import GOAL, batch, encoder_gradient, learner, teacher_decoder

ALL_LOSSES = {"focal": 2.0, "dice": 3.0, "iou": 5.0, "boundary": 7.0}


def test_the_total_is_the_weighted_sum_of_each_image() -> None:
    model = learner(
        teachers=(teacher_decoder(),),
        supervised=ALL_LOSSES,
        features={"mse": 11.0},
        answers={"mask_dice": 13.0},
        lambda_coef=0.5,
    ).eval()
    losses = model(batch())
    distillation = 11 * losses["distill_mse"] + 13 * losses["distill_mask_dice"]
    assert torch.allclose(losses["distillation"], distillation)
    expected = sum(weight * losses[name] for name, weight in ALL_LOSSES.items())
    assert torch.allclose(losses["loss"], expected + 0.5 * distillation)
    assert all(loss.shape == (2,) for loss in losses.values())


@pytest.mark.parametrize("name", [*ALL_LOSSES, "distillation"])
def test_every_loss_reaches_the_encoder(name: str) -> None:
    model = learner(supervised=ALL_LOSSES, features={"mse": 1.0}).train()
    model(batch())[name].sum().backward()
    assert encoder_gradient(model) > 0


def test_images_do_not_see_each_other() -> None:
    model = learner(supervised=ALL_LOSSES, features={"mse": 1.0}).eval()
    sample = batch()
    together = model(sample)
    for i in range(2):
        fields = {
            name: value[i : i + 1] if value.ndim and len(value) else value
            for name, value in sample._asdict().items()
            if name != "teacher"
        }
        teacher = {name: value[i : i + 1] for name, value in sample.teacher.items()}
        alone = model(sample._replace(**fields, teacher=teacher))
        for name, loss in together.items():
            assert alone[name].item() == pytest.approx(loss[i].item(), rel=1e-4), name


def test_the_encoder_runs_once_per_image() -> None:
    model, seen = learner(features={"mse": 1.0}, rounds=2), []
    model.student.image_encoder.register_forward_hook(
        lambda m, args, out: seen.append(len(args[0]))
    )
    model(batch())
    assert seen == [2]


def test_an_image_without_masks_has_no_supervised_loss_and_still_teaches() -> None:
    teachers = (teacher_decoder(),)
    goal = {"features": {"mse": 1.0}, "answers": {"mask_bce": 1.0}}
    model = learner(teachers=teachers, **goal).eval()
    sample = batch()
    known = model(sample)
    half = sample._replace(labelled=torch.tensor([True, False]))
    losses = model(half)
    for name in ("focal", "dice", "iou", "train_iou"):
        assert losses[name][0] == known[name][0]
        assert losses[name][1] == 0
    assert losses["distillation"].equal(known["distillation"])
    assert losses["loss"][1] == losses["distillation"][1]
    nobody = sample._replace(
        labelled=torch.tensor([False, False]), masks=torch.zeros_like(sample.masks)
    )
    model(nobody)["loss"].sum().backward()
    assert encoder_gradient(model) > 0


@pytest.mark.parametrize("rounds", [1, 2])
def test_parts_give_the_losses_and_gradients_of_the_whole(rounds: int) -> None:
    """Decoding some prompts at a time, with each decoded again for its gradient."""
    sample, found = batch(), []
    prompts = {name: getattr(sample, name).repeat_interleave(3, 1) for name in ("masks", "points")}
    sample = sample._replace(**prompts, labels=sample.labels.repeat_interleave(3, 1))
    teacher = teacher_decoder()
    teacher._teacher.double()
    for prompts_per_pass in (100, 4):
        model = learner(
            teachers=(teacher,),
            answers={"mask_bce": 1.0},
            rounds=rounds,
            prompts_per_pass=prompts_per_pass,
        )
        losses = model.double().eval()(sample)
        losses["loss"].sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((losses, gradients))
    (whole, of_whole), (parts, of_parts) = found
    for name, loss in whole.items():
        assert torch.allclose(parts[name], loss, rtol=1e-12), name
    assert of_parts.keys() == of_whole.keys()
    for name, gradient in of_whole.items():
        assert torch.allclose(of_parts[name], gradient, rtol=1e-9, atol=1e-12), name


def test_prompts_per_pass_bounds_what_is_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = learner(prompts_per_pass=2), []
    decode_all = model.student.decode_all

    def spy(embedding: torch.Tensor, **prompts: torch.Tensor) -> object:
        sizes.append(len(prompts["labels"]))
        return decode_all(embedding, **prompts)

    monkeypatch.setattr(model.student, "decode_all", spy)
    model(batch())["loss"].sum().backward()
    assert sizes == [2] * 4  # two parts, each forwards and once more for its gradient


def test_masks_that_nobody_asks_for_have_no_gradient() -> None:
    """So that AdamW does not decay what a run leaves alone."""

    def untouched(**goal: object) -> list[bool]:
        model = learner(**goal)
        model(batch())["loss"].sum().backward()
        heads = model.student.mask_decoder.output_hypernetworks_mlps
        return [next(head.parameters()).grad is None for head in heads]

    assert untouched(multimask=False) == [False, True, True, True]
    assert untouched(multimask=True) == [False] * 4


def test_a_mask_prompt_reaches_the_mask_branch_and_the_encoder() -> None:
    model, plain = learner(), batch()
    sample = plain._replace(
        mask_prompts=torch.randn(2, 2, 1, 16, 16), has_mask=torch.tensor([[True, False]] * 2)
    )
    model(sample)["focal"].sum().backward()
    branch = model.student.prompt_encoder.mask_downscaling.parameters()
    assert all(float(p.grad.abs().sum()) > 0 for p in branch)
    assert encoder_gradient(model) > 0
    nowhere = sample._replace(has_mask=torch.zeros(2, 2, dtype=torch.bool))
    assert torch.allclose(model(nowhere)["focal"], model(plain)["focal"], atol=1e-6)


def test_clicks_of_a_teacher_go_where_the_student_differs_from_it() -> None:
    """In the second round the student's answers differ, as its clicks do."""
    found = {}
    for clicks in ("truth", "teacher"):
        goal = replace(GOAL, supervised={}, answers={"mask_bce": 1.0}, rounds=2, clicks=clicks)
        teachers = (teacher_decoder(),)
        model = learner().eval()
        sample = batch()
        embedding = model.student.image_encoder(sample.image)
        found[clicks] = answer_prompts(model.student, teachers, goal, embedding, sample)
    assert found["truth"].target.equal(batch().masks)
    by_teacher = teachers[0](
        sample.teacher["neck"],
        points=sample.points.flatten(0, 1),
        labels=sample.labels.flatten(0, 1),
        outputs=range(4),
    )
    boxes = by_teacher.low_res_logits[::2, :1]  # the first prompt of each image is a box
    wanted = torch.nn.functional.interpolate(boxes, (64, 64), mode="bilinear")[:, 0] > 0
    assert found["teacher"].target[:, 0].equal(wanted)
    single = decode(model.student, embedding, sample).low_res_logits
    assert torch.allclose(found["teacher"].low_res_logits[:, 0, 0], single[::2, 0], atol=1e-5)


def test_the_objective_of_a_stage_is_its_settings() -> None:
    distil = dict.fromkeys((*FEATURE_LOSSES, *PROMPT_LOSSES), 0.5)
    config = run(
        multimask=False,
        prompts_per_pass=7,
        stage_schedule=[
            entry(
                0,
                5,
                distillation=True,
                lambda_coef=3.0,
                loss_weights={"boundary": 2.0},
                prompt_rounds=4,
                clicks="teacher",
                distill_losses=distil,
            ),
            entry(5, 10, distillation=False),
        ],
    )
    first, second = (objective(config, stage) for stage in normalise(config))
    assert first.supervised == {"focal": 20.0, "dice": 1.0, "iou": 1.0, "boundary": 2.0}
    assert first.features == dict.fromkeys(FEATURE_LOSSES, 0.5)
    assert first.answers == dict.fromkeys(PROMPT_LOSSES, 0.5)
    assert (first.lambda_coef, first.rounds, first.clicks) == (3.0, 4, "teacher")
    assert (first.multimask, first.prompts_per_pass) == (False, 7)
    assert (second.features, second.answers, second.clicks) == ({}, {}, "truth")
    assert weighted(LossWeights(focal=0, dice=0, iou=0)) == {}
    assert weighted(LossWeights(focal=0)) == {"focal": 0.0, "dice": 1.0, "iou": 1.0}
