"""Which of several masks of one thing is kept, and masks without specks and pinholes."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from mobile_sam.data.masks import Mask, Size, decode, encode
from mobile_sam.inference.proposals import AutomaticMask, box_and_area


def without_duplicates(
    found: Sequence[AutomaticMask], scores: Sequence[float], box_iou: float
) -> list[AutomaticMask]:
    """Masks by falling score, less those whose box has more than `box_iou` with one before it.

    Equal scores keep their order.
    """
    boxes = torch.tensor([mask.box for mask in found], dtype=torch.float32).reshape(-1, 4)
    kept = nms(boxes, torch.tensor(scores, dtype=torch.float32), box_iou)
    return [found[i] for i in kept.tolist()]


def without_small_regions(
    found: Sequence[AutomaticMask], size: Size, min_area: int, box_iou: float
) -> list[AutomaticMask]:
    """Masks (H, W) without holes and islands of fewer than `min_area` pixels.

    Of those that have become duplicates, masks that had no such regions stay; they come first.
    """
    changed = {}
    for place, old in enumerate(found):
        mask = decode(old.code, size)
        smooth = without_islands(without_holes(mask, min_area), min_area)
        if smooth is not mask:
            code = encode(smooth)
            box, area = box_and_area(code, size, old.crop)
            changed[place] = replace(old, code=code, box=box, area=area)
    masks = [changed.get(place, old) for place, old in enumerate(found)]
    return without_duplicates(masks, [float(i not in changed) for i in range(len(masks))], box_iou)


def without_holes(mask: Mask, min_area: int) -> Mask:
    """The mask (H, W) with regions of background of fewer than `min_area` pixels filled.

    Returns the mask itself when there is no such region.
    """
    regions, areas = _regions(~mask)
    filled = areas < min_area
    if not filled[1:].any():
        return mask
    filled[0] = True  # what the mask has covered already
    return filled[regions]


def without_islands(mask: Mask, min_area: int) -> Mask:
    """The mask (H, W) without regions of fewer than `min_area` pixels; its largest always stays.

    Returns the mask itself when there is no such region.
    """
    regions, areas = _regions(mask)
    kept = areas >= min_area
    if kept[1:].all():
        return mask
    kept[0] = False
    if not kept.any():
        kept[1 + areas[1:].argmax()] = True
    return kept[regions]


def _regions(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Numbers (H, W) of connected regions, 0 outside the mask, and the area of each number."""
    _, regions, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return np.asarray(regions, dtype=np.int32), facts[:, cv2.CC_STAT_AREA].astype(np.int64)
