"""One step: the total, its gradient, and what of a batch and a stage it looks at."""

from dataclasses import replace

import pytest
import torch

from mobile_sam.config.losses import FEATURE_LOSSES, PROMPT_LOSSES, LossWeights
from mobile_sam.config.schedule import normalise
from mobile_sam.config.sections import ClickTarget
from mobile_sam.training.step import decode, decode_round, encode, stage_objective
from tests.helpers.schedules import entry, run
from tests.helpers.training_steps import (
    GOAL,
    SUPERVISED,
    batch,
    encoder_gradient,
    losses_and_gradients,
    teacher_decoder,
    training_module,
)

ALL_LOSSES = {"focal": 2.0, "dice": 3.0, "iou": 5.0, "boundary": 7.0}


def test_the_total_is_the_weighted_sum_of_each_image() -> None:
    model = training_module(
        teachers=(teacher_decoder(),),
        truth_losses=ALL_LOSSES,
        feature_losses={"mse": 11.0},
        prompt_losses={"mask_dice": 13.0},
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
    model = training_module(truth_losses=ALL_LOSSES, feature_losses={"mse": 1.0}).train()
    model(batch())[name].sum().backward()
    assert encoder_gradient(model) > 0


def test_images_do_not_see_each_other() -> None:
    model = training_module(truth_losses=ALL_LOSSES, feature_losses={"mse": 1.0}).eval()
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
    model, seen = training_module(feature_losses={"mse": 1.0}, prompt_rounds=2), []
    model.student.image_encoder.register_forward_hook(
        lambda m, args, out: seen.append(len(args[0]))
    )
    model(batch())
    assert seen == [2]


def test_an_image_without_masks_has_no_supervised_loss_and_still_teaches() -> None:
    teachers = (teacher_decoder(),)
    goal = {"feature_losses": {"mse": 1.0}, "prompt_losses": {"mask_bce": 1.0}}
    model = training_module(teachers=teachers, **goal).eval()
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
    for decoder_chunk_size in (100, 4):
        model = training_module(
            teachers=(teacher,),
            prompt_losses={"mask_bce": 1.0},
            prompt_rounds=rounds,
            decoder_chunk_size=decoder_chunk_size,
        )
        found.append(losses_and_gradients(model, sample))
    (whole, of_whole), (parts, of_parts) = found
    for name, loss in whole.items():
        assert torch.allclose(parts[name], loss, rtol=1e-12), name
    assert of_parts.keys() == of_whole.keys()
    for name, gradient in of_whole.items():
        assert torch.allclose(of_parts[name], gradient, rtol=1e-9, atol=1e-12), name


def test_decoder_chunk_size_bounds_what_is_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = training_module(decoder_chunk_size=2), []
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
        model = training_module(**goal)
        model(batch())["loss"].sum().backward()
        heads = model.student.mask_decoder.output_hypernetworks_mlps
        return [next(head.parameters()).grad is None for head in heads]

    assert untouched(multimask=False) == [False, True, True, True]
    assert untouched(multimask=True) == [False] * 4


def test_a_mask_prompt_reaches_the_mask_branch_and_the_encoder() -> None:
    model, plain = training_module(), batch()
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
        goal = replace(
            GOAL,
            truth_losses={},
            prompt_losses={"mask_bce": 1.0},
            prompt_rounds=2,
            click_target=clicks,
        )
        teachers = (teacher_decoder(),)
        model = training_module().eval()
        sample = batch()
        embedding = encode(model.student, sample)
        found[clicks] = decode_round(model.student, teachers, goal, embedding, sample)
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
        decoder_chunk_size=7,
        stage_schedule=[
            entry(
                0,
                5,
                distillation=True,
                lambda_coef=3.0,
                loss_weights={"boundary": 2.0},
                prompt_rounds=4,
                click_target="teacher",
                distill_losses=distil,
            ),
            entry(5, 10, distillation=False),
        ],
    )
    first, second = (stage_objective(config, stage) for stage in normalise(config))
    assert first.truth_losses == {"focal": 20.0, "dice": 1.0, "iou": 1.0, "boundary": 2.0}
    assert first.feature_losses == dict.fromkeys(FEATURE_LOSSES, 0.5)
    assert first.prompt_losses == dict.fromkeys(PROMPT_LOSSES, 0.5)
    assert (first.lambda_coef, first.prompt_rounds, first.click_target) == (3.0, 4, "teacher")
    assert (first.multimask, first.decoder_chunk_size) == (False, 7)
    assert (second.feature_losses, second.prompt_losses, second.click_target) == ({}, {}, "truth")
    assert LossWeights(focal=0, dice=0, iou=0).computed == {}
    assert LossWeights(focal=0).computed == {"focal": 0.0, "dice": 1.0, "iou": 1.0}


def test_without_weights_nothing_of_the_iou_head_is_reached() -> None:
    model = training_module(truth_losses=SUPERVISED | {"iou": 0.0})
    losses = model(batch())
    losses["loss"].sum().backward()
    assert not losses["iou"].requires_grad
    assert all(p.grad is None for p in model.student.mask_decoder.iou_prediction_head.parameters())


def test_supervision_is_a_mean_over_images_with_masks() -> None:
    """By hand: one of two images has masks, so its losses count twice in a mean over both."""
    model = training_module(feature_losses={"mse": 3.0}, lambda_coef=0.5).eval()
    step = {"labelled": torch.tensor([True, False]), "per_labelled": torch.tensor([2.0, 2.0])}
    losses = model(batch()._replace(**step))
    supervised = sum(weight * losses[name][0] for name, weight in SUPERVISED.items())
    distilled = 3 * losses["distill_mse"]
    assert losses["loss"].mean().item() == pytest.approx(
        (supervised + 0.5 * distilled.mean()).item()
    )
    assert losses["loss"][1].item() == pytest.approx(0.5 * distilled[1].item())


def test_prompts_of_images_of_which_nobody_knows_anything_are_not_answered() -> None:
    model, sizes = training_module(feature_losses={"mse": 1.0}, prompt_rounds=2).eval(), []
    known = model(batch())
    model.student.mask_decoder.iou_prediction_head.register_forward_hook(
        lambda m, arguments, predicted_iou: sizes.append(len(predicted_iou))
    )
    for labelled, prompts in (([False, True], 2), ([False, False], 2), ([True, True], 4)):
        sizes.clear()
        mask = torch.tensor(labelled)
        losses = model(batch()._replace(labelled=mask))
        assert sizes == [prompts] * 2
        for name in ("focal", "dice", "iou", "train_iou"):
            assert torch.allclose(losses[name], known[name] * mask, rtol=1e-5)
        assert losses["distill_mse"].equal(known["distill_mse"])


def test_features_of_padding_do_not_count() -> None:
    model = training_module(feature_losses={"mse": 1.0, "relation": 1.0}, truth_losses={}).eval()
    sample = batch()._replace(size=torch.tensor([[64, 32], [64, 64]]))
    before = model(sample)["loss"]
    sample.teacher["neck"][0, :, :, 2:] += 5
    after = model(sample)["loss"]
    assert before[0] == after[0]
    sample.teacher["neck"][0, :, :, :2] += 5
    assert model(sample)["loss"][0] > after[0]


@pytest.mark.parametrize("clicks", ["truth", "teacher"])
def test_clicks_on_images_without_masks_correct_to_the_teacher(clicks: ClickTarget) -> None:
    teachers = (teacher_decoder(),)
    model = training_module(teachers=teachers).eval()
    goal = replace(GOAL, prompt_losses={"mask_bce": 1.0}, prompt_rounds=2, click_target=clicks)
    sample = batch()
    embedding = model.student.image_encoder(sample.normalised())
    wanted = decode_round(
        model.student, teachers, replace(goal, click_target="teacher"), embedding, sample
    ).target
    sample.masks[1] = False
    half = sample._replace(labelled=torch.tensor([True, False]))
    found = decode_round(model.student, teachers, goal, embedding, half).target
    assert wanted[1].any()
    assert found[1].equal(wanted[1])
    assert found[0].equal(sample.masks[0] if clicks == "truth" else wanted[0])
