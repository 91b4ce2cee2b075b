"""One bundle of a tiny model in all its forms, written once: an export takes many seconds."""

from pathlib import Path

import pytest
import torch

from mobile_sam.export.bundle import write_bundle
from mobile_sam.export.calibration import images_from_directory
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam


@pytest.fixture(scope="package")
def model() -> Sam:
    """Random weights, with biases that change the answers."""
    model = build_sam_model("tiny_sam", 64, seed=3).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "attention_biases" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return model


@pytest.fixture(scope="package")
def bundle(model: Sam, unlabelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle, of float32, float16 and int8; not to be changed."""
    directory = tmp_path_factory.mktemp("onnx") / "bundle"
    source = {"weights": "random"}
    write_bundle(
        model, directory, source, ["float16", "int8"], images_from_directory(unlabelled, 4)
    )
    return directory
