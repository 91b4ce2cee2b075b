"""Weights that verbs can be asked to use, and images that they can be asked of."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import to_original
from tests.helpers.discs import HEIGHT, WIDTH, Discs
from tests.helpers.images import draw_image


@pytest.fixture(scope="module")
def finished_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights of a tiny model, without settings beside it."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(to_original(build_sam_model("tiny_sam", 64)), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory of `a.png` and `below/b.png`, of (H, W) (60, 80) and (61, 80)."""
    directory = tmp_path / "photos"
    for number, name in enumerate(("a.png", "below/b.png")):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_image(path, 80, 60 + number, seed=number)
    return directory


@pytest.fixture(scope="module")
def model() -> Sam:
    model = build_sam_model("tiny_sam", 64)
    parts = model.image_encoder, model.prompt_encoder, model.mask_decoder
    return Discs(*parts).eval()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
