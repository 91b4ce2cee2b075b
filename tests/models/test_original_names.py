"""`load_state_dict` takes the original's names and ours, strictly."""

import copy
import pickle
from pathlib import Path

import pytest
import torch

from mobile_sam import build_sam
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.original_names import own_state
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import to_original
from tests.helpers.equality import equal_states

NAMES = ["vit_t", "vit_t_se", "vit_b", "tiny_sam", "tiny_teacher_vit"]


@pytest.mark.parametrize("model_type", NAMES)
@pytest.mark.parametrize("of_original", [True, False])
def test_states_of_both_names_load_strictly(model_type: str, of_original: bool) -> None:
    source, model = (build_sam_model(model_type, 64, seed=seed) for seed in (1, 2))
    state = to_original(source) if of_original else source.state_dict()
    names = list(state)
    result = model.load_state_dict(state, strict=True)
    assert result.missing_keys == result.unexpected_keys == []
    assert equal_states(model.state_dict(), source.state_dict())
    assert list(state) == names, "the state dict of the caller is left as it is"


@pytest.mark.parametrize("model_type", ["tiny_sam", "tiny_teacher_vit"])
def test_an_encoder_alone_loads_its_part(model_type: str) -> None:
    source, model = (build_sam_model(model_type, 64, seed=seed) for seed in (1, 2))
    prefix = "image_encoder."
    state = {k.removeprefix(prefix): v for k, v in to_original(source).items() if prefix in k}
    assert state.keys() - source.image_encoder.state_dict().keys()
    model.image_encoder.load_state_dict(state, strict=True)
    assert equal_states(model.image_encoder.state_dict(), source.image_encoder.state_dict())


def test_what_does_not_fit_is_named() -> None:
    model = build_sam_model("tiny_sam", 64)
    state = to_original(model)
    del state["image_encoder.layers.0.blocks.0.conv1.c.weight"]
    state["image_encoder.layers.9.extra"] = state["mask_decoder.more"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="Missing key") as caught:
        model.load_state_dict(state)
    for name in ("stages.0.blocks.0.conv1.conv.weight", "stages.9.extra", "mask_decoder.more"):
        assert name in str(caught.value)
    result = model.load_state_dict(state, strict=False)
    assert (len(result.missing_keys), len(result.unexpected_keys)) == (1, 2)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_copied_model_takes_them_too(pickled: bool) -> None:
    model: Sam = build_sam_model("tiny_sam", 64)
    model = pickle.loads(pickle.dumps(model)) if pickled else copy.deepcopy(model)  # noqa: S301
    source = build_sam_model("tiny_sam", 64, seed=1)
    model.load_state_dict(to_original(source))
    assert equal_states(model.state_dict(), source.state_dict())


@pytest.mark.parametrize("model_type", ["tiny_sam", "tiny_teacher_vit"])
def test_a_saved_state_dict_is_a_weights_file(model_type: str, tmp_path: Path) -> None:
    source = build_sam_model(model_type, 64, seed=1)
    torch.save(source.state_dict(), tmp_path / "own.pt")
    assert equal_states(build_sam(tmp_path / "own.pt", 64).state_dict(), source.state_dict())


def test_names_of_a_timm_encoder_are_ours_alone() -> None:
    encoder = build_sam_model("timm/resnet18", 64).image_encoder
    state = {f"image_encoder.{name}": value for name, value in encoder.state_dict().items()}
    assert own_state(encoder, state) == state
