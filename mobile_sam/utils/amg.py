"""Import path of the original for the helper functions of its automatic mask generator.

Boxes are xyxy, x1 and y1 inclusive; run lengths go down the columns, background first.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mobile_sam.data.masks import Mask, decode, encode, encode_runs
from mobile_sam.inference.automatic_masks import (
    compressed_rle,
    fill_holes,
    remove_islands,
    uncompressed_rle,
)
from mobile_sam.inference.grid import generate_crops
from mobile_sam.inference.grid import point_grid as build_point_grid
from mobile_sam.inference.grid import point_grids as build_all_layer_point_grids
from mobile_sam.inference.proposals import EDGE, stability_scores

__all__ = [
    "MaskData",
    "area_from_rle",
    "batch_iterator",
    "batched_mask_to_box",
    "box_xyxy_to_xywh",
    "build_all_layer_point_grids",
    "build_point_grid",
    "calculate_stability_score",
    "coco_encode_rle",
    "generate_crop_boxes",
    "is_box_near_crop_edge",
    "mask_to_rle_pytorch",
    "remove_small_regions",
    "rle_to_mask",
    "uncrop_boxes_xyxy",
    "uncrop_masks",
    "uncrop_points",
]

Rle = dict[str, Any]
_REMOVERS = {"holes": fill_holes, "islands": remove_islands}


class MaskData:
    """Table of named columns of equal length: tensors, arrays and lists."""

    def __init__(self, **columns: Any) -> None:
        self._columns = columns

    def __setitem__(self, name: str, column: Any) -> None:
        self._columns[name] = column

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __delitem__(self, name: str) -> None:
        del self._columns[name]

    def items(self) -> Any:
        """Return pairs of name and column."""
        return self._columns.items()

    def filter(self, keep: Tensor) -> None:
        """Keep rows of all columns. keep: (N,) bool, or the numbers of the rows."""
        rows = (keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep).cpu()
        for name, column in self.items():
            if isinstance(column, list):
                self[name] = [column[row] for row in rows.tolist()]
            elif isinstance(column, Tensor):
                self[name] = column[rows.to(column.device)]
            elif column is not None:
                self[name] = column[rows.numpy()]

    def cat(self, new_stats: "MaskData") -> None:
        """Append the rows of another table; missing columns are added."""
        for name, column in new_stats.items():
            before = self._columns.get(name)
            if before is None:
                self[name] = deepcopy(column)
            elif isinstance(column, list):
                self[name] = before + deepcopy(column)
            else:
                join = torch.cat if isinstance(column, Tensor) else np.concatenate
                self[name] = join([before, column])

    def to_numpy(self) -> None:
        """Convert tensors to arrays."""
        for name, column in self.items():
            if isinstance(column, Tensor):
                self[name] = column.detach().cpu().numpy()


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """Yield slices of `batch_size` rows from sequences of equal length."""
    for start in range(0, len(args[0]), batch_size):
        yield [column[start : start + batch_size] for column in args]


def calculate_stability_score(
    masks: Tensor, mask_threshold: float, threshold_offset: float
) -> Tensor:
    """Compute the IoU (...) of masks (..., H, W) at mask_threshold plus and minus an offset."""
    return stability_scores(masks, mask_threshold, threshold_offset)


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """Return the boxes (..., 4) of masks (..., H, W) bool; zeros for an empty mask."""
    if not masks.numel():
        return torch.zeros(*masks.shape[:-2], 4, device=masks.device)
    ends = []
    for lines in (masks.any(-2), masks.any(-1)):  # columns, rows
        occupied = lines.byte()
        ends += [occupied.argmax(-1), lines.shape[-1] - 1 - occupied.flip(-1).argmax(-1)]
    x0, x1, y0, y1 = ends
    return torch.stack([x0, y0, x1, y1], dim=-1) * masks.flatten(-2).any(-1)[..., None]


def box_xyxy_to_xywh(box_xyxy: Any) -> Any:
    """Convert a box (4,) to its corner, width and height; the type stays."""
    box = deepcopy(box_xyxy)
    box[2] -= box[0]
    box[3] -= box[1]
    return box


def mask_to_rle_pytorch(tensor: Tensor) -> list[Rle]:
    """Encode masks (N, H, W) bool as uncompressed run lengths."""
    height, width = tensor.shape[1:]
    return [uncompressed_rle(encode(mask), (height, width)) for mask in tensor.cpu().numpy()]


def rle_to_mask(rle: Rle) -> Mask:
    """Decode uncompressed run lengths to a mask (H, W)."""
    height, width = rle["size"]
    return decode(encode_runs(rle["counts"], (height, width)), (height, width))


def coco_encode_rle(uncompressed_rle: Rle) -> Rle:
    """Convert uncompressed run lengths to COCO's compressed code, as text."""
    height, width = uncompressed_rle["size"]
    return compressed_rle(encode_runs(uncompressed_rle["counts"], (height, width)), (height, width))


def area_from_rle(rle: Rle) -> int:
    """Count the pixels of a mask from its uncompressed run lengths."""
    return sum(rle["counts"][1::2])


def remove_small_regions(mask: Mask, area_thresh: float, mode: str) -> tuple[Mask, bool]:
    """Remove `holes` or `islands` of fewer pixels from a mask (H, W); return whether it changed."""
    result = _REMOVERS[mode](mask, area_thresh)
    return result, result is not mask


def generate_crop_boxes(
    im_size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """Return the boxes of an image (H, W) and its crops, and the layer of each.

    Boxes are xyxy, x1 and y1 exclusive.
    """
    crops = generate_crops((im_size[0], im_size[1]), n_layers, overlap_ratio)
    return [list(crop[:4]) for crop in crops], [crop.layer for crop in crops]


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: Sequence[int], orig_box: Sequence[int], atol: float = EDGE
) -> Tensor:
    """Return (N,) bool: whether boxes end at an edge of their crop inside the image.

    boxes: (N, 4) in pixels of the crop.
    """
    ends = uncrop_boxes_xyxy(boxes, crop_box)
    cut, edge = (ends.new_tensor(box) for box in (crop_box, orig_box))
    return (((ends - cut).abs() <= atol) & ((ends - edge).abs() > atol)).any(dim=1)


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Convert boxes (..., 4) of a crop to the whole image."""
    return boxes + torch.tensor([*crop_box[:2], *crop_box[:2]], device=boxes.device)


def uncrop_points(points: Tensor, crop_box: Sequence[int]) -> Tensor:
    """Convert points (..., 2), xy, of a crop to the whole image."""
    return points + torch.tensor(crop_box[:2], device=points.device)


def uncrop_masks(masks: Tensor, crop_box: Sequence[int], orig_h: int, orig_w: int) -> Tensor:
    """Place masks (..., h, w) of a crop in the whole image, (..., orig_h, orig_w)."""
    x0, y0, x1, y1 = crop_box
    return F.pad(masks, (x0, orig_w - x1, y0, orig_h - y1))
