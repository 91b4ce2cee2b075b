"""Prediction and automatic masks on fake CUDA tensors: see `tests/helpers/fake_cuda.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import functional

from mobile_sam.inference.automatic_masks import (
    automatic_masks,
    remove_duplicates,
    remove_small_regions,
)
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.proposals import AutomaticOptions
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.prompt_encoder import PromptEncoder
from mobile_sam.models.sam import Sam
from tests.helpers.fake_cuda import CUDA, TYPES, cast, devices, fake_cuda, on_cuda

IMAGE = np.zeros((60, 80, 3), dtype=np.uint8)
BOX, POINTS, LABELS = np.array([10, 20, 40, 50]), np.array([[30, 30], [5, 5]]), np.array([1, 0])
PROMPTS: list[dict[str, Any]] = [
    {"box": BOX},
    {"point_coords": POINTS, "point_labels": LABELS},
    {"mask_input": np.zeros((1, 16, 16), dtype=np.float32)},
]
EVERY_PROMPT = PROMPTS[0] | PROMPTS[1] | PROMPTS[2]


@pytest.fixture(autouse=True)
def values_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels all exist. Duplicates are sought among numbers, which real tensors are made of."""
    monkeypatch.setattr("mobile_sam.models.prompt_encoder.check_labels", lambda *args: None)
    for function in (remove_duplicates, remove_small_regions):
        name = f"mobile_sam.inference.automatic_masks.{function.__name__}"
        monkeypatch.setattr(name, with_real_tensors(function))


def with_real_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    def outside(*args: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args)

    return outside


@pytest.mark.parametrize("dtype", TYPES)
def test_predictions(dtype: torch.dtype | None) -> None:
    with fake_cuda(), cast(dtype):
        predictor = SamPredictor(model())
        predictor.set_image(IMAGE)
        assert predictor.get_image_embedding().device == CUDA
        three = [predictor.predict(**prompt) for prompt in [*PROMPTS, EVERY_PROMPT]]
        one = predictor.predict(**PROMPTS[0], multimask_output=False, return_logits=True)
    for found in three:
        assert found.masks.shape == (3, 60, 80)
        assert found.masks.dtype == bool
        assert found.low_res_logits.shape == (3, 16, 16)
    assert one.masks.shape == (1, 60, 80)
    assert one.low_res_logits.dtype == (np.float16 if dtype == torch.float16 else np.float32)


@pytest.mark.parametrize("dtype", TYPES)
def test_several_prompts_on_one_of_several_images(dtype: torch.dtype | None) -> None:
    with fake_cuda(), cast(dtype):
        predictor = SamPredictor(model())
        predictor.set_images([IMAGE, IMAGE[:40]])
        predictor.select_image(1)
        points, labels = torch.zeros(5, 2, 2, device=CUDA), torch.ones(5, 2, device=CUDA)
        boxes, masks = torch.zeros(5, 4, device=CUDA), torch.zeros(5, 1, 16, 16, device=CUDA)
        found = predictor.predict_torch(points, labels, boxes, masks)
    assert devices(iter(found)) == {CUDA}
    assert found.masks.shape == (5, 3, 40, 80)
    assert found.low_res_logits.dtype == (dtype or torch.float32)


@pytest.mark.parametrize("dtype", TYPES[1:])
def test_a_model_of_16_bits(dtype: torch.dtype) -> None:
    with fake_cuda():
        predictor = SamPredictor(model(dtype))
        assert predictor.model.dtype == dtype
        predictor.set_image(IMAGE)
        found = predictor.predict(**EVERY_PROMPT)
        embedding = predictor.get_image_embedding().float()  # as stores hold it
        options = AutomaticOptions(points_per_side=2)
        masks = automatic_masks(predictor.model, IMAGE, options, embedding)
    assert found.predicted_iou.dtype == (np.float16 if dtype == torch.float16 else np.float32)
    assert len(masks) == 1


@pytest.mark.parametrize("dtype", TYPES)
def test_automatic_masks_with_crops(dtype: torch.dtype | None) -> None:
    options = AutomaticOptions(points_per_side=2, crop_n_layers=1, min_mask_region_area=9)
    with fake_cuda(), cast(dtype):
        (mask,) = automatic_masks(model(), IMAGE, options)
    assert mask.area == 60 * 80  # all are equal, and cover everything


def test_automatic_masks_of_an_embedding_as_many_points_as_memory_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (1 << 20, 1 << 30))
    options = AutomaticOptions(points_per_batch=None, coarse_points_per_side=2)
    with fake_cuda():
        sam = model()
        embedding = torch.zeros(1, sam.prompt_encoder.embed_dim, 4, 4, device=CUDA)
        assert len(automatic_masks(sam, IMAGE, options, embedding)) == 1


def test_a_tensor_that_stayed_on_the_cpu_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    as_points = PromptEncoder.as_points

    def careless(*args: Any) -> tuple[Tensor, Tensor]:
        points, labels = as_points(*args)
        return points.cpu(), labels

    with fake_cuda():
        predictor = SamPredictor(model())
        predictor.set_image(IMAGE)
        monkeypatch.setattr(PromptEncoder, "as_points", careless)
        for prompt in PROMPTS[:2]:
            with pytest.raises(RuntimeError, match="device"):
                predictor.predict(**prompt)


@pytest.mark.parametrize(
    "careless",
    [
        lambda half, single: half @ single.mT,
        lambda half, single: half[None] @ single.mT[None],
        functional.linear,
        lambda half, single: functional.linear(half, half, single[0]),
        lambda half, single: functional.conv1d(half[None], single[..., None]),
        lambda half, single: single.index_put((torch.zeros(2, dtype=torch.int64),), half),
        lambda half, single: functional.layer_norm(half, (2,), single[0]),
        lambda half, single: functional.scaled_dot_product_attention(half, single, single),
    ],
    ids=["mm", "bmm", "linear", "bias", "convolution", "index_put", "layer_norm", "attention"],
)
def test_types_that_differ_are_caught(careless: Callable[[Tensor, Tensor], Tensor]) -> None:
    with fake_cuda():
        single = torch.zeros(2, 2, device=CUDA)
        careless(single, single)
        with pytest.raises(RuntimeError, match="type"):
            careless(single.half(), single)


def test_masks_that_stayed_on_the_gpu_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda():
        monkeypatch.setattr(Tensor, "cpu", lambda tensor: tensor)
        with pytest.raises(TypeError, match="cuda:0"):
            automatic_masks(model(), IMAGE, AutomaticOptions(points_per_side=2))


def model(dtype: torch.dtype = torch.float32) -> Sam:
    """A model whose parameters are of this type, on the fake GPU."""
    torch.set_default_dtype(dtype)
    try:
        sam: Sam = on_cuda(lambda: build_sam_model("tiny_sam", 64))
    finally:
        torch.set_default_dtype(torch.float32)
    return sam.eval()
