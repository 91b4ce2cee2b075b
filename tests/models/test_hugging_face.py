"""Weights with the names of Hugging Face's `SamModel`.

The comparison with transformers runs where it can be imported, or is in $MOBILE_SAM_TRANSFORMERS:
`pip install --target DIRECTORY transformers`.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mobile_sam.models.build import build_sam_model
from mobile_sam.models.detect_architecture import detect_model_type, load_any
from mobile_sam.models.original_names import from_hugging_face, is_hugging_face
from mobile_sam.models.safe_load import load_state_file
from mobile_sam.models.weights import to_original
from mobile_sam.system.errors import ConfigError
from tests.helpers.commands import ROOT
from tests.helpers.equality import equal_states

PACKAGES = os.environ.get("MOBILE_SAM_TRANSFORMERS")
needs_transformers = pytest.mark.skipif(
    not PACKAGES and find_spec("transformers") is None, reason="transformers is not installed"
)
PLACES = {
    "image_encoder.patch_embed.proj": "vision_encoder.patch_embed.projection",
    "image_encoder.pos_embed": "vision_encoder.pos_embed",
    "image_encoder.neck.0": "vision_encoder.neck.conv1",
    "image_encoder.neck.1": "vision_encoder.neck.layer_norm1",
    "image_encoder.neck.2": "vision_encoder.neck.conv2",
    "image_encoder.neck.3": "vision_encoder.neck.layer_norm2",
    "prompt_encoder.mask_downscaling.0": "prompt_encoder.mask_embed.conv1",
    "prompt_encoder.mask_downscaling.1": "prompt_encoder.mask_embed.layer_norm1",
    "prompt_encoder.mask_downscaling.3": "prompt_encoder.mask_embed.conv2",
    "prompt_encoder.mask_downscaling.4": "prompt_encoder.mask_embed.layer_norm2",
    "prompt_encoder.mask_downscaling.6": "prompt_encoder.mask_embed.conv3",
    "mask_decoder.output_upscaling.0": "mask_decoder.upscale_conv1",
    "mask_decoder.output_upscaling.1": "mask_decoder.upscale_layer_norm",
    "mask_decoder.output_upscaling.3": "mask_decoder.upscale_conv2",
    "mask_decoder.transformer.norm_final_attn": "mask_decoder.transformer.layer_norm_final_attn",
}
POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
TWICE = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)


def hugging_face_name(name: str) -> str:
    """Name in transformers of a tensor of SAM with an IoU head of three layers."""
    for original, theirs in PLACES.items():
        name = re.sub(rf"^{re.escape(original)}(?=\.|$)", theirs, name)
    name = name.replace("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed.")
    name = re.sub(r"^image_encoder\.blocks\.", "vision_encoder.layers.", name)
    name = re.sub(r"(layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2.", name)
    for number, theirs in enumerate(("proj_in", "layers.0", "proj_out")):
        name = re.sub(
            rf"^(mask_decoder\.(iou_prediction_head|output_hypernetworks_mlps\.\d))\.layers\.{number}\.",
            rf"\1.{theirs}.",
            name,
        )
    return name


def as_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    new = {hugging_face_name(key): value for key, value in state.items() if key != POSITIONS}
    return new | dict.fromkeys(TWICE, state[POSITIONS])


def test_names_of_transformers_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build_sam_model("tiny_teacher_vit", 64, seed=5)
    state = as_hugging_face(to_original(model))
    for name in (
        "vision_encoder.layers.2.layer_norm1.bias",
        "vision_encoder.layers.0.mlp.lin1.weight",
        "prompt_encoder.point_embed.3.weight",
        "prompt_encoder.mask_embed.conv3.bias",
        "mask_decoder.transformer.layers.0.layer_norm4.weight",
        "mask_decoder.output_hypernetworks_mlps.3.proj_out.weight",
        "mask_decoder.iou_prediction_head.layers.0.bias",
    ):
        assert name in state, name
    for path in (tmp_path / "pytorch_model.bin", tmp_path / "without_copy.bin"):
        torch.save(state, path)
        with caplog.at_level("INFO"):
            assert equal_states(load_any(path, 64).state_dict(), model.state_dict())
        assert f"{path}: converted Hugging Face's names" in caplog.text
        state.pop(TWICE[1], None)  # as safetensors leaves out what is stored twice


def test_two_position_encodings_that_differ_are_refused(tmp_path: Path) -> None:
    state = as_hugging_face(to_original(build_sam_model("tiny_teacher_vit", 64)))
    state[TWICE[1]] = state[TWICE[1]] + 1
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=r"x\.pt: two different tensors are prompt_encoder\.pe"):
        load_state_file(tmp_path / "x.pt")


def test_a_deeper_head_keeps_its_order() -> None:
    head = "mask_decoder.iou_prediction_head"
    theirs = ("proj_in", "layers.0", "layers.1", "layers.2", "proj_out")
    names = from_hugging_face([f"{head}.{name}.weight" for name in theirs])
    assert list(names.values()) == [f"{head}.layers.{number}.weight" for number in range(5)]


def test_names_of_the_original_code_are_not_those_of_transformers() -> None:
    for name in ("tiny_sam", "tiny_teacher_vit"):
        assert not is_hugging_face(to_original(build_sam_model(name, 64)))


def transformers(task: str, output: Path) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "tests" / "helpers" / "hf_sam.py"), task, str(output)],
        check=True,
        cwd=output,
        env=os.environ | ({"PYTHONPATH": PACKAGES} if PACKAGES else {}),
        capture_output=True,
    )


@needs_transformers
@torch.no_grad()
def test_a_model_of_transformers_answers_the_same_here(tmp_path: Path) -> None:
    transformers("forward", tmp_path)
    theirs = torch.load(tmp_path / "answers.pt", weights_only=True)
    model = load_any(tmp_path / "model.safetensors", 1024).eval()
    embedding = model.image_encoder(theirs["images"])
    torch.testing.assert_close(embedding, theirs["embedding"], atol=1e-4, rtol=0)
    prompts = {
        "points": (theirs["points"][None], theirs["labels"][None], None, None),
        "box": (None, None, theirs["box"][None], None),
    }
    for name, prompt in prompts.items():
        points, labels = model.prompt_encoder.as_points(*prompt)
        logits, iou = model.decode(embedding, points, labels, None, name == "points")
        torch.testing.assert_close(logits, theirs[f"{name}_logits"], atol=1e-4, rtol=0)
        torch.testing.assert_close(iou, theirs[f"{name}_iou"], atol=1e-4, rtol=0)


@needs_transformers
def test_all_sizes_of_transformers_are_recognised(tmp_path: Path) -> None:
    transformers("names", tmp_path)
    for size, found in json.loads((tmp_path / "names.json").read_text()).items():
        names = from_hugging_face(found)
        state = {names[key]: torch.empty(shape, device="meta") for key, shape in found.items()}
        assert detect_model_type(state, size) == size
