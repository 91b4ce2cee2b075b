"""Modules of the original are found under its paths, with its names."""

import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor

from mobile_sam.utils import amg

MODULES = {
    "mobile_sam.automatic_mask_generator": ["SamAutomaticMaskGenerator"],
    "mobile_sam.build_sam": [
        *("build_sam", "build_sam_vit_b", "build_sam_vit_h", "build_sam_vit_l", "build_sam_vit_t"),
        "sam_model_registry",
    ],
    "mobile_sam.modeling": [
        *("ImageEncoderViT", "MaskDecoder", "PromptEncoder", "Sam", "TinyViT", "TwoWayTransformer")
    ],
    "mobile_sam.modeling.common": ["LayerNorm2d"],
    "mobile_sam.modeling.image_encoder": ["ImageEncoderViT"],
    "mobile_sam.modeling.mask_decoder": ["MaskDecoder"],
    "mobile_sam.modeling.prompt_encoder": ["PromptEncoder"],
    "mobile_sam.modeling.sam": ["Sam"],
    "mobile_sam.modeling.tiny_vit_sam": ["TinyViT"],
    "mobile_sam.modeling.transformer": ["TwoWayTransformer"],
    "mobile_sam.predictor": ["SamPredictor"],
    "mobile_sam.utils.onnx": ["SamOnnxModel"],
    "mobile_sam.utils.transforms": ["ResizeLongestSide"],
}


@pytest.mark.parametrize("module", MODULES)
def test_modules_have_the_originals_names(module: str) -> None:
    found = import_module(module)
    for name in MODULES[module]:
        assert getattr(found, name).__doc__ or name == "sam_model_registry"
    assert set(MODULES[module]) == set(found.__all__)


@pytest.mark.parametrize(
    "imports",
    [
        "from mobile_sam import build_sam",
        "from mobile_sam.build_sam import build_sam_vit_t; from mobile_sam import build_sam",
        "import mobile_sam.build_sam; build_sam = mobile_sam.build_sam",
    ],
)
def test_build_sam_is_a_function_after_any_import(imports: str) -> None:
    code = f"{imports}; build_sam('none.pt')"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "none.pt" in result.stderr.splitlines()[-1]
    assert "not callable" not in result.stderr


def test_modules_are_there_after_an_import_of_the_package() -> None:
    code = (
        "import mobile_sam as m; print(m.utils.amg.MaskData.__name__, m.modeling.Sam.__name__, "
        "m.utils.transforms.__name__, m.predictor.SamPredictor is m.SamPredictor, "
        "m.automatic_mask_generator.SamAutomaticMaskGenerator is m.SamAutomaticMaskGenerator)"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found == ["MaskData", "Sam", "mobile_sam.utils.transforms", "True", "True"]


def test_boxes_of_masks_may_be_of_empty_ones() -> None:
    masks = torch.zeros(2, 3, 8, 9, dtype=torch.bool)
    masks[0, 1, 2:5, 3:7] = True
    masks[1, 2, 7, 8] = True
    boxes = amg.batched_mask_to_box(masks)
    assert boxes.shape == (2, 3, 4)
    assert boxes[0, 1].tolist() == [3, 2, 6, 4]
    assert boxes[1, 2].tolist() == [8, 7, 8, 7]
    assert boxes.abs().sum() == 15 + 30
    assert amg.batched_mask_to_box(masks[:0]).shape == (0, 3, 4)


@pytest.mark.parametrize("keep", [torch.tensor([True, False, True]), torch.tensor([2, 0])])
def test_mask_data_filters_and_joins(keep: Tensor) -> None:
    rows = keep.nonzero()[:, 0].tolist() if keep.dtype == torch.bool else keep.tolist()
    data = amg.MaskData(a=torch.arange(3), b=np.arange(3), c=["x", "y", "z"])
    data["d"] = torch.ones(3)
    del data["d"]
    joined = amg.MaskData()
    for _ in range(2):
        joined.cat(data)
    joined.filter(torch.arange(3))
    joined.filter(keep)
    joined.to_numpy()
    assert [name for name, _ in joined.items()] == ["a", "b", "c"]
    assert joined["a"].tolist() == joined["b"].tolist() == rows
    assert joined["c"] == [["x", "y", "z"][row] for row in rows]
    assert isinstance(joined["a"], np.ndarray)
