"""Weights say what they are of."""

from pathlib import Path

import pytest
import torch

from mobile_sam.config.architectures import architectures
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.detect_architecture import detect_model_type, load_any
from mobile_sam.models.weights import original_name, to_original
from mobile_sam.system.errors import ConfigError
from tests.helpers.equality import equal_states

SMALL = [name for name in architectures() if name not in {"vit_h", "vit_l"}]


@pytest.mark.parametrize("name", SMALL)
def test_every_architecture_is_recognised(name: str) -> None:
    assert detect_model_type(to_original(build_sam_model(name, 64)), "x") == name


@pytest.mark.parametrize("name", ["vit_h", "vit_l"])
def test_the_largest_are_recognised_by_names_and_shapes_alone(name: str) -> None:
    with torch.device("meta"):
        model = build_sam_model(name, 64)
    state = {original_name(model, key): value for key, value in model.state_dict().items()}
    assert state.keys() != model.state_dict().keys()
    assert detect_model_type(state, "x") == name


def test_another_iou_head_is_read_off(tmp_path: Path) -> None:
    model = build_sam_model("tiny_sam", 64, iou_head_depth=2, iou_head_hidden_dim=24, seed=3)
    torch.save(to_original(model), tmp_path / "w.pt")
    assert equal_states(load_any(tmp_path / "w.pt", 64).state_dict(), model.state_dict())


def test_weights_of_nothing_known_say_what_is_nearest(tmp_path: Path) -> None:
    state = to_original(build_sam_model("tiny_sam", 64))
    state["image_encoder.neck.0.weight"] = torch.zeros(3, 3, 1, 1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"w\.pt: .* architecture is 'tiny_sam', where 2 tensors"):
        load_any(tmp_path / "w.pt", 64)
    with pytest.raises(ConfigError, match="wrong shape: image_encoder"):
        load_any(tmp_path / "w.pt", 64, "tiny_sam")
