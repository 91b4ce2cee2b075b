"""The original's `SamOnnxModel`, exported by the script that goes with it."""

import io

import numpy as np
import pytest
import torch
from torch import Tensor

from mobile_sam.models.build import build_sam_model
from mobile_sam.utils.onnx import SamOnnxModel

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def inputs(points: int, size: tuple[int, int], has_mask: bool) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(points)
    return {
        "image_embeddings": torch.randn(1, 32, 4, 4, generator=draw),
        "point_coords": torch.rand(1, points, 2, generator=draw) * 64,
        "point_labels": torch.randint(-1, 4, (1, points), generator=draw).float(),
        "mask_input": torch.randn(1, 1, 16, 16, generator=draw) * 8,
        "has_mask_input": torch.tensor([float(has_mask)]),
        "orig_im_size": torch.tensor(size).float(),
    }


@pytest.mark.filterwarnings(
    *("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"),
    "ignore:Exporting aten..index operator:UserWarning",
)
@pytest.mark.parametrize("options", [{}, {"use_stability_score": True}])
def test_a_traced_model_takes_other_points_and_sizes(options: dict[str, bool]) -> None:
    """By torch's older exporter, as the original's script was written for."""
    sam = build_sam_model("tiny_sam", 64)
    model = SamOnnxModel(sam, return_single_mask=True, **options)
    file, traced = io.BytesIO(), inputs(5, (150, 225), has_mask=True)
    torch.onnx.export(
        model,
        tuple(traced.values()),
        file,
        opset_version=16,
        input_names=list(traced),
        output_names=["masks", "iou_predictions", "low_res_masks"],
        dynamic_axes={"point_coords": {1: "num_points"}, "point_labels": {1: "num_points"}},
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for points in (1, 2, 3, 7):
        given = inputs(points, (30 + points, 200), has_mask=points > 2)
        found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        assert found[0].shape == (1, 1, 30 + points, 200)
        for array, expected in zip(found, model(**given), strict=True):
            np.testing.assert_allclose(array, expected, atol=1e-5)


def test_few_points_get_the_best_of_three_masks_and_many_the_first() -> None:
    model = SamOnnxModel(build_sam_model("tiny_sam", 64), return_single_mask=True)
    masks = torch.arange(4.0)[None, :, None, None].expand(2, 4, 1, 1)
    iou = torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2]])
    chosen = [model.select_masks(masks, iou, points)[0].flatten().tolist() for points in (2, 3)]
    assert chosen == [[2, 1], [0, 0]]


def test_extra_metrics_come_before_the_logits() -> None:
    given = inputs(3, (48, 64), has_mask=False)
    sam = build_sam_model("tiny_sam", 64)
    plain = SamOnnxModel(sam, return_single_mask=False)(**given)
    masks, scores, stability, areas, low_res = SamOnnxModel(
        sam, return_single_mask=False, return_extra_metrics=True
    )(**given)
    assert all(map(torch.equal, (masks, scores, low_res), plain))
    assert torch.equal(areas, (masks > 0).sum((2, 3)))
    assert stability.shape == areas.shape == (1, 4)
