"""Weights that verbs can be asked to use."""

from pathlib import Path

import pytest
import torch

from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original


@pytest.fixture(scope="module")
def finished_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights of a tiny model, without settings beside it."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(to_original(build_sam_model("tiny_sam", 64)), path)
    return path
