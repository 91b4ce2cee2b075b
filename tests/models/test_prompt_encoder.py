"""Positions of prompts and cells: exact enough, in every precision, to tell neighbours apart."""

import pytest
import torch
from torch import Tensor

from mobile_sam.models.prompt_encoder import FOREGROUND, PADDING, PromptEncoder


def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(256, (64, 64), (1024, 1024)).eval()


def neighbours(model: PromptEncoder) -> Tensor:
    """Tokens (100, C) of neighbouring pixels of a row."""
    x = torch.arange(700.0, 800.0)
    points = torch.stack([x, torch.full_like(x, 900.0)], dim=1)[None]
    return model.embed_points(points, torch.full((1, 100), FOREGROUND))[0]


def cells(model: PromptEncoder) -> Tensor:
    """Positions (64 * 64, C) of the cells of the image embedding."""
    return model.get_dense_pe().flatten(2)[0].mT


@pytest.mark.parametrize("places", [neighbours, cells])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_mixed_precision_leaves_positions_as_they_are(dtype: torch.dtype, places: object) -> None:
    plain = places(encoder())  # type: ignore[operator]
    with torch.autocast("cpu", dtype):
        found = places(encoder())  # type: ignore[operator]
    assert torch.equal(found, plain)


@pytest.mark.parametrize("places", [neighbours, cells])
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)
@torch.no_grad()
def test_each_place_has_a_token_of_its_own(dtype: torch.dtype, places: object) -> None:
    """Whatever the type of the weights, too."""
    found = places(encoder().to(dtype))  # type: ignore[operator]
    assert found.dtype == dtype
    assert len(found.unique(dim=0)) == len(found)


@torch.no_grad()
def test_positions_by_hand() -> None:
    """The centre of a pixel in the unit square, from -1 to 1, times a random matrix and 2 pi."""
    model = encoder()
    matrix = model.pe_layer.positional_encoding_gaussian_matrix.double()
    place = torch.tensor([2 * 10.5 / 1024 - 1, 2 * 20.5 / 1024 - 1], dtype=torch.float64)
    phases = 2 * torch.pi * (place @ matrix)
    expected = torch.cat([phases.sin(), phases.cos()]).float()
    points, labels = torch.tensor([[[10.0, 20.0]]]), torch.tensor([[FOREGROUND]])
    foreground = model.get_parameter("point_embeddings.1.weight")[0]
    token = model.embed_points(points, labels)[0, 0] - foreground
    assert torch.allclose(token, expected, atol=1e-5)
    padding = model.embed_points(points, torch.tensor([[PADDING]]))[0, 0]
    assert torch.equal(padding, model.not_a_point_embed.weight[0])
