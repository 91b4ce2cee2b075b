import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.schedule import normalise
from mobile_sam.config.sections import Freeze
from mobile_sam.models.build import build_sam_model
from mobile_sam.system.errors import ConfigError
from mobile_sam.training.optim import (
    adamw,
    batchnorm_statistics,
    batchnorms,
    blocks_above,
    drop_unused_gradients,
    freeze_parts,
    keep_unreached_rows,
    largest_gradients,
    lr_factor,
    set_learning_rate,
)
from mobile_sam.training.step import TrainingModule
from mobile_sam.training.teacher import FeatureProjections
from tests.helpers import training_steps as steps


@pytest.fixture
def module() -> TrainingModule:
    return steps.training_module()


def test_every_parameter_is_in_the_optimiser_once(module: TrainingModule) -> None:
    freeze_parts(module, Freeze(image_encoder=True), freeze_batchnorm=False)
    optimizer = adamw(module, 0.1, 1.0)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in module.parameters())


def test_only_matrices_are_decayed(module: TrainingModule) -> None:
    names = {id(p): name for name, p in module.named_parameters()}
    for group in adamw(module, 0.1, 1.0).param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if name.endswith(".bias") or "norm" in name or "tokens." in name or "biases" in name:
                assert group["weight_decay"] == 0, name
            if name.endswith("qkv.weight"):
                assert group["weight_decay"] == 0.1


def test_the_encoder_gets_its_share_of_the_learning_rate(module: TrainingModule) -> None:
    optimizer = adamw(module, 0.1, encoder_lr_scale=0.25)
    set_learning_rate(optimizer, 0.4)
    encoder = {id(p) for p in module.student.image_encoder.parameters()}
    for group in optimizer.param_groups:
        expected = 0.1 if id(group["params"][0]) in encoder else 0.4
        assert group["lr"] == pytest.approx(expected)


def test_the_course_of_the_learning_rate() -> None:
    def course(steps: int, *args: object) -> list[float]:
        return [lr_factor(step, steps, *args) for step in range(steps)]  # type: ignore[arg-type]

    assert course(6, 2, "constant") == [0.5, 1, 1, 1, 1, 1]
    assert course(6, 2, "linear") == [0.5, 1, 1, 0.75, 0.5, 0.25]
    cosine = course(5, 1, "cosine")
    assert cosine[:2] == [1.0, 1.0]
    assert cosine[3] == pytest.approx(0.5)


def test_frozen_parts_stay_and_unfrozen_parts_move_again(module: TrainingModule) -> None:
    optimizer = adamw(module, 0.1, 1.0)
    set_learning_rate(optimizer, 0.01)

    def moved(freeze: Freeze) -> dict[str, bool]:
        freeze_parts(module, freeze, freeze_batchnorm=False)
        student = module.student
        before = {part: _copy(getattr(student, part)) for part in _PARTS}
        embedding = student.image_encoder(torch.randn(2, 3, 64, 64))
        logits, iou = student.decode(
            embedding, torch.rand(2, 2, 2) * 64, torch.tensor([[2, 3], [1, -1]])
        )
        (logits.square().mean() + iou.square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {part: _differs(before[part], _copy(getattr(student, part))) for part in _PARTS}

    assert moved(Freeze(image_encoder=True)) == {
        "image_encoder": False,
        "prompt_encoder": True,
        "mask_decoder": True,
    }
    assert all(moved(Freeze()).values())
    assert moved(Freeze(prompt_encoder=True, mask_decoder=True)) == {
        "image_encoder": True,
        "prompt_encoder": False,
        "mask_decoder": False,
    }


_PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")


def _copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def _differs(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(a[key], b[key]) for key in a)


def test_batchnorm_statistics_can_be_kept(module: TrainingModule) -> None:
    def statistics() -> torch.Tensor:
        return next(b for n, b in module.named_buffers() if n.endswith("running_mean")).clone()

    freeze_parts(module, Freeze(), freeze_batchnorm=True)
    before = statistics()
    module.student.image_encoder(torch.randn(2, 3, 64, 64))
    assert torch.equal(statistics(), before)
    freeze_parts(module, Freeze(), freeze_batchnorm=False)
    module.student.image_encoder(torch.randn(2, 3, 64, 64))
    assert not torch.equal(statistics(), before)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"batch_size": 8}, False),
        ({"batch_size": 4}, True),
        ({"batch_size": 4, "checkpoint": None}, False),  # random statistics have to be learned
        ({"batch_size": 4, "freeze_batchnorm": False}, False),
        ({"batch_size": 8, "checkpoint": None, "freeze_batchnorm": True}, True),
        ({"batch_size": 16, "devices": 2}, False),
        ({"batch_size": 15, "devices": 2}, True),  # 8 images and 7
        ({"batch_size": 16, "devices": 2, "num_nodes": 2}, True),
        ({"batch_size": 16, "devices": 2, "num_nodes": 2, "sync_batchnorm": True}, False),
        ({"batch_size": 4, "devices": 2, "sync_batchnorm": True}, True),
    ],
)
def test_the_default_of_freeze_batchnorm_counts_images_that_statistics_are_of(
    changes: dict[str, Any], kept: bool
) -> None:
    assert parse_config({"checkpoint": "mobile_sam", **changes}, "test").keeps_batchnorm is kept


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 4}, "frozen; 4 images per batch on each device"),
        ({"batch_size": 16, "devices": 4}, "frozen; 4 images per batch on each device"),
        ({"batch_size": 16}, "updated on each device; 16 images per batch"),
        ({"batch_size": 16, "devices": 2}, "updated on each device; 8 images per batch"),
        (
            {"batch_size": 16, "devices": 2, "num_nodes": 2, "sync_batchnorm": True},
            "synchronised over 4 devices; 16 images per batch",
        ),
        ({"freeze": {"image_encoder": True}}, "frozen with the image encoder"),
    ],
)
def test_the_log_says_what_becomes_of_batchnorm_statistics(
    changes: dict[str, Any], words: str
) -> None:
    config = parse_config({"checkpoint": "mobile_sam", **changes}, "test")
    assert batchnorm_statistics(config, normalise(config)[0]) == words


def test_shared_and_frozen_batchnorm_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="sync_batchnorm: true, but with freeze_batchnorm: true"):
        parse_config({"sync_batchnorm": True, "freeze_batchnorm": True}, "test")


def test_synchronised_batchnorm_has_the_same_parameters_under_the_same_names() -> None:
    for model_type in ("tiny_sam", "timm/efficientnet_lite0"):  # with an activation within, too
        model = build_sam_model(model_type, 64)
        plain, before = dict(model.named_parameters()), model.state_dict().keys()
        number = len(list(batchnorms(model)))
        assert convert_sync_batchnorm(model) is model
        assert model.state_dict().keys() == before
        assert all(plain[name] is p for name, p in model.named_parameters())
        synchronised = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
        assert len(synchronised) == number > 0


def _moved(model: TrainingModule, optimizer: torch.optim.Optimizer) -> set[str]:
    """Names of the parameters of which a step of training changes anything."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(steps.batch())["loss"].sum().backward()
    assert drop_unused_gradients(model)
    with keep_unreached_rows(model.student.mask_decoder):
        optimizer.step()
    optimizer.zero_grad()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def test_what_has_no_weight_stays_as_it_is_whatever_a_stage_before_has_done() -> None:
    """Neither decay nor momentum moves it, after steps that have trained all of it."""
    model = steps.training_module()
    optimizer = adamw(model, weight_decay=0.5, encoder_lr_scale=1.0)
    set_learning_rate(optimizer, 0.01)
    head = "student.mask_decoder.iou_prediction_head."
    assert any(name.startswith(head) for name in _moved(model, optimizer))
    model.objective = replace(steps.GOAL, truth_losses={"focal": 1.0, "dice": 1.0, "iou": 0.0})
    found = _moved(model, optimizer)
    assert found
    assert not any(name.startswith(head) for name in found)
    model.objective = replace(steps.GOAL, multimask=False)
    decoder = model.student.mask_decoder
    last = decoder.iou_prediction_head.layers[-1]
    tables = [decoder.mask_tokens.weight, last.weight, last.bias]
    before = [table.detach().clone() for table in tables]
    found = _moved(model, optimizer)
    for mask in range(1, 4):
        assert not any(f"output_hypernetworks_mlps.{mask}." in name for name in found)
    for table, values in zip(tables, before, strict=True):
        moved = (table != values).reshape(4, -1).any(1)
        assert moved.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("goal", "reached"),
    [
        ({}, 4),
        ({"multimask": False}, 1),
        ({"multimask": False, "prompt_losses": {"mask_bce": 1.0}}, 4),
    ],
)
def test_tokens_of_masks_without_a_loss_have_no_gradient(
    goal: dict[str, Any], reached: int
) -> None:
    """Though all tokens look at each other."""
    model = steps.training_module(teachers=(steps.teacher_decoder(),), **goal)
    model(steps.batch())["loss"].sum().backward()
    assert drop_unused_gradients(model)
    gradient = model.student.mask_decoder.mask_tokens.weight.grad
    assert (gradient != 0).any(1).tolist() == [mask < reached for mask in range(4)]


def test_a_gradient_of_zero_is_none(module: TrainingModule) -> None:
    """Nothing has masks: no term moves the decoder."""
    nobody = torch.tensor([False, False])
    module.objective = replace(steps.GOAL, feature_losses={"mse": 1.0})
    module(steps.batch()._replace(labelled=nobody))["loss"].sum().backward()
    assert drop_unused_gradients(module)
    assert all(p.grad is None for p in module.student.mask_decoder.parameters())
    assert steps.encoder_gradient(module) > 0
    module.objective = steps.GOAL
    module.zero_grad()
    module(steps.batch()._replace(labelled=nobody))["loss"].sum().backward()
    assert not drop_unused_gradients(module)


def test_the_largest_gradient_is_found_and_what_is_no_number() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.tensor([[1.0, -3.0], [2.0, 0.0]])
    assert largest_gradients(layer)[1].tolist() == [3.0]
    for wrong in (math.nan, -math.inf):
        layer.bias.grad = torch.tensor([1.0, wrong])
        assert largest_gradients(layer)[1].isfinite().tolist() == [True, False]


def test_blocks_above_in_each_family_of_encoders() -> None:
    tiny_vit = ["patch_embed.conv1.weight", "stages.0.blocks.0.a", "stages.0.blocks.1.a"]
    tiny_vit += ["stages.1.downsample.a", "stages.1.blocks.0.a", "stages.1.blocks.0.b"]
    names = [*(f"body.{name}" for name in tiny_vit), "neck.0.weight"]
    assert blocks_above(names) == [3, 2, 1, 1, 0, 0, 0]
    sam_vit = ["pos_embed", "patch_embed.proj.weight", "blocks.0.a", "blocks.10.a", "neck.0.weight"]
    assert blocks_above([f"body.{name}" for name in sam_vit]) == [2, 2, 1, 0, 0]
    resnet = ["conv1.weight", "layer1.0.a", "layer1.1.a", "layer2.0.a"]
    assert blocks_above([*(f"body.{name}" for name in resnet), "neck.0.weight"]) == [2, 1, 1, 0, 0]
    nested = ["conv_stem.weight", "blocks.0.0.a", "blocks.0.1.a", "blocks.1.0.a"]
    assert blocks_above([f"body.{name}" for name in nested]) == [2, 1, 1, 0]


@pytest.mark.parametrize(
    ("model_type", "blocks"),
    [("tiny_sam", 4), ("tiny_teacher_vit", 3), ("timm/resnet18", 5), ("timm/convnext_atto", 12)],
)
def test_learning_rates_fall_towards_the_image(model_type: str, blocks: int) -> None:
    student = build_sam_model(model_type, 64)
    module = TrainingModule(student, FeatureProjections(32, {}, seed=0), steps.GOAL)
    scale = {
        id(parameter): group["lr_scale"]
        for group in adamw(module, 0.1, encoder_lr_scale=0.5, layer_decay=0.8).param_groups
        for parameter in group["params"]
    }
    encoder = [scale[id(p)] for p in student.image_encoder.parameters()]
    assert encoder == sorted(encoder)
    assert encoder[0] == pytest.approx(0.5 * 0.8**blocks)
    assert encoder[-1] == 0.5
    assert {scale[id(p)] for p in student.mask_decoder.parameters()} == {1.0}
    assert len(scale) == len(list(module.parameters()))


def test_groups_are_the_same_whatever_is_frozen(module: TrainingModule) -> None:
    """So that the state of the optimiser fits from stage to stage."""

    def groups() -> list[tuple[float, list[int]]]:
        optimizer = adamw(module, 0.1, 1.0, 0.9)
        return [(g["lr_scale"], [id(p) for p in g["params"]]) for g in optimizer.param_groups]

    before = groups()
    freeze_parts(module, Freeze(image_encoder=True), freeze_batchnorm=True)
    assert groups() == before
    assert len(before) > 4
