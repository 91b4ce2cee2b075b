import pytest
import torch

from mobile_sam.config import parse_config
from mobile_sam.models.build import build_sam_model
from mobile_sam.options import Freeze
from mobile_sam.training.distillation import Distiller
from mobile_sam.training.learner import Learner
from mobile_sam.training.optim import (
    adamw,
    blocks_above,
    freeze_parts,
    lr_factor,
    set_learning_rate,
)
from tests.training import steps


@pytest.fixture
def learner() -> Learner:
    return steps.learner()


def test_every_parameter_is_in_the_optimiser_once(learner: Learner) -> None:
    freeze_parts(learner, Freeze(image_encoder=True), freeze_batchnorm=False)
    optimizer = adamw(learner, 0.1, 1.0)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in learner.parameters())


def test_only_matrices_are_decayed(learner: Learner) -> None:
    names = {id(p): name for name, p in learner.named_parameters()}
    for group in adamw(learner, 0.1, 1.0).param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if name.endswith(".bias") or "norm" in name or "tokens." in name or "biases" in name:
                assert group["weight_decay"] == 0, name
            if name.endswith("qkv.weight"):
                assert group["weight_decay"] == 0.1


def test_the_encoder_gets_its_share_of_the_learning_rate(learner: Learner) -> None:
    optimizer = adamw(learner, 0.1, encoder_lr_scale=0.25)
    set_learning_rate(optimizer, 0.4)
    encoder = {id(p) for p in learner.student.image_encoder.parameters()}
    for group in optimizer.param_groups:
        expected = 0.1 if id(group["params"][0]) in encoder else 0.4
        assert group["lr"] == pytest.approx(expected)


def test_the_course_of_the_learning_rate() -> None:
    def course(steps: int, *args: object) -> list[float]:
        return [lr_factor(step, steps, *args) for step in range(steps)]  # type: ignore[arg-type]

    assert course(6, 2, "constant") == [0.5, 1, 1, 1, 1, 1]
    assert course(6, 2, "linear") == [0.5, 1, 1, 0.75, 0.5, 0.25]
    assert course(6, 0.34, "linear") == course(6, 2, "linear")  # a share of the span
    cosine = course(5, 1, "cosine")
    assert cosine[:2] == [1.0, 1.0]
    assert cosine[3] == pytest.approx(0.5)


def test_frozen_parts_stay_and_unfrozen_parts_move_again(learner: Learner) -> None:
    optimizer = adamw(learner, 0.1, 1.0)
    set_learning_rate(optimizer, 0.01)

    def moved(freeze: Freeze) -> dict[str, bool]:
        freeze_parts(learner, freeze, freeze_batchnorm=False)
        student = learner.student
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


def test_batchnorm_statistics_can_be_kept(learner: Learner) -> None:
    def statistics() -> torch.Tensor:
        return next(b for n, b in learner.named_buffers() if n.endswith("running_mean")).clone()

    freeze_parts(learner, Freeze(), freeze_batchnorm=True)
    before = statistics()
    learner.student.image_encoder(torch.randn(2, 3, 64, 64))
    assert torch.equal(statistics(), before)
    freeze_parts(learner, Freeze(), freeze_batchnorm=False)
    learner.student.image_encoder(torch.randn(2, 3, 64, 64))
    assert not torch.equal(statistics(), before)


@pytest.mark.parametrize(
    ("batch_size", "checkpoint", "given", "kept"),
    [
        (8, "mobile_sam", None, False),
        (4, "mobile_sam", None, True),
        (4, None, None, False),  # random statistics have to be learned
        (4, "mobile_sam", False, False),
        (8, None, True, True),
    ],
)
def test_the_default_of_freeze_batchnorm(
    batch_size: int, checkpoint: str | None, given: bool | None, kept: bool
) -> None:
    settings = {"batch_size": batch_size, "checkpoint": checkpoint, "freeze_batchnorm": given}
    assert parse_config(settings, "test").keeps_batchnorm is kept


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
    learner = Learner(student, Distiller(32, {}, seed=0), steps.GOAL)
    scale = {
        id(parameter): group["lr_scale"]
        for group in adamw(learner, 0.1, encoder_lr_scale=0.5, layer_decay=0.8).param_groups
        for parameter in group["params"]
    }
    encoder = [scale[id(p)] for p in student.image_encoder.parameters()]
    assert encoder == sorted(encoder)
    assert encoder[0] == pytest.approx(0.5 * 0.8**blocks)
    assert encoder[-1] == 0.5
    assert {scale[id(p)] for p in student.mask_decoder.parameters()} == {1.0}
    assert len(scale) == len(list(learner.parameters()))


def test_groups_are_the_same_whatever_is_frozen(learner: Learner) -> None:
    """So that the state of the optimiser fits from stage to stage."""

    def groups() -> list[tuple[float, list[int]]]:
        optimizer = adamw(learner, 0.1, 1.0, 0.9)
        return [(g["lr_scale"], [id(p) for p in g["params"]]) for g in optimizer.param_groups]

    before = groups()
    freeze_parts(learner, Freeze(image_encoder=True), freeze_batchnorm=True)
    assert groups() == before
    assert len(before) > 4
