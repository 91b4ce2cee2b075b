"""The same numbers as the original MobileSAM and SAM code, on random weights.

BatchNorm statistics and attention biases are random too: at their start values they hide errors.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobile_sam.config.architectures import architectures
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam
from mobile_sam.models.sam_vit import SamViTEncoder
from mobile_sam.models.weights import load_state, to_original
from tests.helpers.oracle import original
from tests.helpers.photographs import photograph, randomise

TOLERANCE = 1e-4
TWO_BLOCKS = {"depth": 2, "global_blocks": [1]}


@pytest.fixture(scope="module")
def model() -> Sam:
    model = build_sam_model("vit_t", seed=1).eval()
    randomise(model)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))


def difference(first: Tensor, second: Tensor) -> float:
    assert first.shape == second.shape
    return float((first - second).abs().max())


@torch.no_grad()
def test_tiny_vit(model: Sam, images: Tensor, tmp_path: Path) -> None:
    theirs = original("encode", {"state": to_original(model), "images": images}, tmp_path)
    assert difference(model.image_encoder(images), theirs) <= TOLERANCE


@pytest.mark.parametrize(
    ("model_type", "shortened"),
    [("vit_b", {}), ("vit_l", TWO_BLOCKS), ("vit_h", TWO_BLOCKS)],
    ids=["b", "l", "h"],
)
@torch.no_grad()
def test_sam_vit(
    model_type: str, shortened: dict[str, Any], images: Tensor, tmp_path: Path
) -> None:
    """ViT-B as it is; ViT-L and ViT-H with two blocks, the second of them global."""
    settings = dict(architectures()[model_type]["image_encoder"])
    del settings["family"]
    settings |= shortened
    torch.manual_seed(0)
    encoder = SamViTEncoder(**settings).eval()
    randomise(encoder)
    whole = nn.Module()
    whole.image_encoder = encoder
    prefix = "image_encoder."
    state = {k.removeprefix(prefix): v for k, v in to_original(whole).items()}
    theirs = original("encode_sam", {"state": state, "images": images, **settings}, tmp_path)
    assert difference(encoder(images), theirs) <= TOLERANCE


@torch.no_grad()
def test_prompt_encoder(model: Sam, tmp_path: Path) -> None:
    points = torch.tensor([[[10.0, 20.0], [500.25, 700.5]], [[1023.0, 0.0], [3.0, 4.0]]])
    labels = torch.tensor([[1, 0], [0, 1]])
    boxes = torch.tensor([[5.0, 6.0, 300.0, 400.0], [0.0, 0.0, 1024.0, 1024.0]])
    masks = torch.randn(2, 1, 256, 256)
    prompts = [
        {"points": (points, labels)},
        {"boxes": boxes},
        {"points": (points, labels), "boxes": boxes},
        {"boxes": boxes, "masks": masks},
    ]
    theirs, positions = original(
        "embed_prompts", {"state": to_original(model), "prompts": prompts}, tmp_path
    )
    padding = (torch.zeros(2, 1, 2), -torch.ones(2, 1, dtype=torch.long))
    corners = (boxes.view(2, 2, 2), torch.tensor([[2, 3], [2, 3]]))
    ours = [
        ((points, padding[0]), (labels, padding[1]), None),
        ((corners[0],), (corners[1],), None),
        ((points, corners[0]), (labels, corners[1]), None),
        ((corners[0],), (corners[1],), masks),
    ]
    for (places, kinds, mask), (sparse, dense) in zip(ours, theirs, strict=True):
        found, found_dense = model.prompt_encoder.embed(
            torch.cat(places, 1), torch.cat(kinds, 1), mask
        )
        assert difference(found, sparse) <= TOLERANCE
        assert difference(found_dense.expand_as(dense), dense) <= TOLERANCE
    assert difference(model.prompt_encoder.get_dense_pe(), positions) <= TOLERANCE


@torch.no_grad()
def test_mask_decoder(model: Sam, tmp_path: Path) -> None:
    embedding = torch.randn(1, 256, 64, 64)
    boxes = torch.tensor([[5.0, 6.0, 300.0, 400.0], [100.0, 0.0, 1024.0, 900.0]])
    task = {"state": to_original(model), "embedding": embedding, "boxes": boxes}
    for multimask, (logits, iou) in zip(
        (False, True), original("decode", task, tmp_path), strict=True
    ):
        found, found_iou = model.decode(
            embedding, boxes.view(2, 2, 2), torch.tensor([[2, 3], [2, 3]]), multimask=multimask
        )
        assert difference(found, logits) <= TOLERANCE
        assert difference(found_iou, iou) <= TOLERANCE


def test_the_whole_predictor(model: Sam, tmp_path: Path) -> None:
    image = photograph()
    prompts = [
        {"box": np.array([100.0, 50.0, 400.5, 300.0])},
        {"point_coords": np.array([[320.0, 200.0]]), "point_labels": np.array([1])},
        {
            "point_coords": np.array([[320.0, 200.0], [10.0, 470.5]]),
            "point_labels": np.array([1, 0]),
            "box": np.array([100.0, 50.0, 400.0, 300.0]),
            "mask_input": np.random.default_rng(0).normal(size=(1, 256, 256)),
        },
    ]
    tensors = [{key: torch.from_numpy(value) for key, value in p.items()} for p in prompts]
    task = {"state": to_original(model), "image": torch.from_numpy(image), "prompts": tensors}
    frame, answers = original("predict", task, tmp_path)
    assert torch.equal(image_to_model_frame(image, 1024)[None], frame)  # bit for bit
    predictor = SamPredictor(model)
    predictor.set_image(image)
    asked = [(prompt, multimask) for prompt in prompts for multimask in (False, True)]
    for (prompt, multimask), (logits, iou, low) in zip(asked, answers, strict=True):
        found = predictor.predict(**prompt, multimask_output=multimask, return_logits=True)
        for ours, theirs in zip(found, (logits, iou, low), strict=True):
            assert difference(torch.from_numpy(ours), theirs) <= TOLERANCE
        masks, _, _ = predictor.predict(**prompt, multimask_output=multimask)
        assert masks.dtype == bool
        assert (masks != (logits > 0).numpy()).mean() <= 1e-4


@torch.no_grad()
def test_a_state_of_the_original_loads_here(images: Tensor, tmp_path: Path) -> None:
    state, theirs = original("random_state", {"images": images}, tmp_path)
    model = build_sam_model("vit_t").eval()
    load_state(model, state, "original")
    assert difference(model.image_encoder(images), theirs) <= TOLERANCE
