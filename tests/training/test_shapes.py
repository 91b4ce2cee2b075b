"""Start weights `shapes`: a random decoder that learns, on noise, what a box means."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mobile_sam.config.parsing import parse_config
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.mask_decoder import SINGLE
from mobile_sam.models.prompt_encoder import BOTTOM_RIGHT, TOP_LEFT
from mobile_sam.models.sam import Sam
from mobile_sam.models.student_teacher import random_student, start_student
from mobile_sam.models.two_way import TokensToImage
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.settings_files import shared_settings
from mobile_sam.system.errors import ConfigError
from mobile_sam.training.mask_points import logits_at
from mobile_sam.training.shapes import (
    Ellipses,
    draw_ellipses,
    learn_shapes,
    match_positions,
    sample_points,
    shape_loss,
    step_loss,
)
from tests.helpers.commands import verb
from tests.helpers.equality import equal_states
from tests.helpers.fake_cuda import CUDA, fake_cuda, on_cuda
from tests.helpers.runs import tiny_settings

CIRCLE = Ellipses(torch.tensor([[32.0, 16.0]]), torch.tensor([[8.0, 4.0]]))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def overlap(model: Sam, count: int = 64) -> float:
    """Mean IoU, at points, of what a model gives for boxes on a blank embedding."""
    ellipses = draw_ellipses(count, model.img_size, generator())
    points = sample_points(ellipses, model.img_size, generator())
    side = model.img_size // 16
    blank = torch.zeros(1, model.mask_decoder.transformer_dim, side, side)
    labels = torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]]).expand(count, 2)
    with torch.no_grad():
        logits = model.decode_all(blank, ellipses.boxes, labels, outputs=SINGLE).low_res_logits
    predicted = logits_at(logits[:, 0], points, model.img_size) > 0
    truth = ellipses.contain(points) > 0
    return float(((predicted & truth).sum(1) / (predicted | truth).sum(1).clamp(min=1)).mean())


def test_an_ellipse_fills_its_box() -> None:
    assert CIRCLE.boxes.tolist() == [[[24, 12], [40, 20]]]
    points = torch.tensor([[[32.0, 16.0], [40.0, 16.0], [32.0, 12.0], [39.0, 19.0], [41.0, 16.0]]])
    assert CIRCLE.contain(points).tolist() == [[1, 1, 1, 0, 0]]


def test_boxes_lie_in_the_frame_and_have_many_sizes() -> None:
    boxes = draw_ellipses(500, 256, generator()).boxes
    assert boxes.min() >= 0
    assert boxes.max() <= 256
    sides = (boxes[:, 1] - boxes[:, 0]).log2()
    assert sides.min() < 3
    assert sides.max() > 7


def test_the_loss_at_points_is_that_of_the_formula() -> None:
    """One point inside and one outside of a constant mask of logit 1."""
    logits = torch.ones(1, 1, 16, 16)
    points = torch.tensor([[[32.0, 16.0], [60.0, 60.0]]])
    p = torch.tensor(1.0).sigmoid()
    cross_entropy = -(p.log() + (1 - p).log()) / 2
    dice = 1 - (2 * p + 1) / (2 * p + 1 + 1)
    assert torch.allclose(shape_loss(logits, CIRCLE, points, 64), cross_entropy + dice)


def test_points_read_the_logits_at_their_place() -> None:
    """The centre of cell (row 4, column 8) of 16 is at x 34, y 18 of 64 pixels."""
    logits = torch.zeros(1, 1, 16, 16)
    logits[0, 0, 4, 8] = 20.0
    at_cell = shape_loss(logits, CIRCLE, torch.tensor([[[34.0, 18.0]]]), 64)
    elsewhere = shape_loss(logits, CIRCLE, torch.tensor([[[30.0, 14.0]]]), 64)
    assert at_cell < 1e-3 < elsewhere


def test_cells_and_tokens_at_one_position_attend_to_each_other() -> None:
    model = build_sam_model("tiny_sam", 64)
    match_positions(model)
    attention = next(m for m in model.mask_decoder.modules() if isinstance(m, TokensToImage))
    assert torch.equal(attention.q_proj.weight, attention.k_proj.weight)
    assert torch.equal(attention.q_proj.bias, attention.k_proj.bias)


def test_a_decoder_learns_shapes_and_the_encoder_stays() -> None:
    model = build_sam_model("demo_student", 64)
    encoder = {name: value.clone() for name, value in model.image_encoder.state_dict().items()}
    before = overlap(model)
    match_positions(model)
    learn_shapes(model, 300, seed=0)
    assert before < 0.1
    assert overlap(model) > 0.25
    assert equal_states(model.image_encoder.state_dict(), encoder)


def test_the_seed_decides_the_weights() -> None:
    def learned(seed: int) -> dict[str, Tensor]:
        model = build_sam_model("tiny_sam", 64)
        learn_shapes(model, 2, seed, objects=2)
        return model.state_dict()

    assert equal_states(learned(0), learned(0))
    assert not equal_states(learned(0), learned(1))


def test_a_step_on_a_gpu() -> None:
    with fake_cuda():
        model = on_cuda(lambda: build_sam_model("tiny_sam", 64))
        assert step_loss(model, 2, generator()).device == CUDA


def test_the_command_writes_what_the_run_starts_from(scenes: Path, tmp_path: Path) -> None:
    config = parse_config(tiny_settings(scenes, tmp_path, checkpoint="shapes:3"), "test")
    with pytest.raises(ConfigError, match="python -m mobile_sam shapes --config"):
        start_student(config)
    paths = RunPaths(config)
    assert paths.shape_settings is not None
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(shared_settings(config)[paths.shape_settings]))
    result = verb("shapes", "--config", settings)
    assert result.returncode == 0, result.stderr
    expected = random_student(config)
    match_positions(expected)
    torch.set_num_threads(1)
    learn_shapes(expected, 3, config.seed)
    assert equal_states(start_student(config).state_dict(), expected.state_dict())


def test_the_command_needs_a_run_that_starts_from_shapes(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(tiny_settings(scenes, tmp_path)))
    result = verb("shapes", "--config", tmp_path / "run.json")
    assert result.returncode == 1
    assert "checkpoint: None; set it to 'shapes'" in result.stderr
