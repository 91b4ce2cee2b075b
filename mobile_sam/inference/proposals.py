"""What a model proposes when it is asked for the points of a grid: masks that it finds good.

Kirillov et al., arXiv:2304.02643, appendix B.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mobile_sam.data.masks import Mask, Size, boxes_and_areas, encode, union
from mobile_sam.frames import points_to_model_frame, upscale_logits
from mobile_sam.inference.grid import Crop, Points, point_grids
from mobile_sam.inference.memory import points_at_once
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.models.prompt_encoder import FOREGROUND

Box = tuple[int, int, int, int]

# Logits that are upscaled at a time: 64 MB of them, however many masks there are.
PIXELS_AT_ONCE = 1 << 24
# A mask that ends as near as this to an edge of its crop is cut off by it; in pixels.
EDGE = 20


@dataclass(frozen=True)
class AutomaticOptions:
    """What is asked and what is kept, with the original's names and defaults.

    points_per_side: of the grid on the whole image; None with `point_grids`, one grid of points
    (N, 2) xy in the unit square for the image and each layer of crops.
    points_per_batch: prompts decoded at a time, at most, see `memory`; None: as memory allows.
    pred_iou_thresh: masks with a higher predicted_iou are kept; 0 keeps all.
    stability_score_thresh: masks at least as stable are kept; 0 keeps all. The score is the IoU of
    the masks at `mask_threshold` plus and minus `stability_score_offset`, in logits.
    box_nms_thresh, crop_nms_thresh: box IoU of duplicates within a crop and between crops.
    crop_n_layers, crop_overlap_ratio, crop_n_points_downscale_factor: see `grid`.
    min_mask_region_area: smaller holes and islands are removed, in pixels; 0 keeps all.
    mask_threshold: logits above it belong to a mask; None: that of the model.
    coarse_points_per_side: of a grid that is asked first; the points of the other one are then
    asked only where no mask was kept. None: no such grid, as in the original.
    """

    points_per_side: int | None = 32
    points_per_batch: int | None = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[Points] | None = None
    min_mask_region_area: int = 0
    mask_threshold: float | None = None
    coarse_points_per_side: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        if self.points_per_batch is not None and self.points_per_batch < 1:
            raise ValueError(f"points_per_batch: {self.points_per_batch}; it must be 1 or more")
        layers = len(self._grids())
        if layers <= self.crop_n_layers:
            raise ValueError(
                f"point_grids: {layers} grids for the image and {self.crop_n_layers} layers of "
                f"crops; give one for each"
            )
        self.rounds()

    def rounds(self) -> list[list[Points]]:
        """Of the image and each layer of crops, the grids (N, 2) in the unit square, as asked."""
        grids = [[grid] for grid in self._grids()]
        if self.coarse_points_per_side is None:
            return grids
        coarse = self._regular("coarse_points_per_side", self.coarse_points_per_side)
        return [[first, *rest] for first, rest in zip(coarse, grids, strict=False)]

    def _grids(self) -> Sequence[Points]:
        if self.points_per_side is not None and self.point_grids is None:
            return self._regular("points_per_side", self.points_per_side)
        if self.points_per_side is None and self.point_grids is not None:
            return self.point_grids
        raise ValueError("give points_per_side or point_grids, one of them, and set the other None")

    def _regular(self, option: str, side: int) -> list[Points]:
        return point_grids(side, self.crop_n_layers, self.crop_n_points_downscale_factor, option)


@dataclass(frozen=True)
class AutomaticMask:
    """A mask that was found without a prompt, in the image frame, in pixels.

    code: COCO's compressed run-length code of the mask (H, W).
    box: (x0, y0, x1, y1) of its first and last columns and rows, x1 and y1 inclusive as in SAM; of
    an empty mask the top left pixel of the crop.
    stability_score: IoU of the masks at a higher and a lower threshold.
    point: (x, y) that was asked for. crop: the part of the image that was looked at.
    """

    code: bytes
    area: int
    box: Box
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop: Crop


def masks_of_crop(
    predictor: SamPredictor,
    grids: Sequence[Points],
    crop: Crop,
    size: Size,
    options: AutomaticOptions,
) -> list[AutomaticMask]:
    """Good and stable masks that the crop does not cut off, by points; there may be duplicates.

    predictor: with the crop as its image. size: (H, W) of the whole image.
    grids: (N, 2) xy in the unit square, asked one after another; of each only what lies in no mask
    of those before (Shu et al., arXiv:2312.13789).
    """
    height, width = crop.size
    found: list[AutomaticMask] = []
    for grid in grids:
        points = uncovered(grid * (width, height), found, crop, size)
        found += masks_of_points(predictor, points, crop, size, options)
    return found


def uncovered(points: Points, found: Sequence[AutomaticMask], crop: Crop, size: Size) -> Points:
    """Of the points (N, 2), xy in pixels of the crop, those that lie in none of the masks."""
    covered = union([mask.code for mask in found], size)  # (H, W)
    places = np.add(points, (crop.x0, crop.y0)).astype(np.int64)
    x, y = np.minimum(places, (crop.x1 - 1, crop.y1 - 1)).T
    return points[~covered[y, x]]


def masks_of_points(
    predictor: SamPredictor, points: Points, crop: Crop, size: Size, options: AutomaticOptions
) -> list[AutomaticMask]:
    """As `masks_of_crop`, of points (N, 2), xy in pixels of the crop."""
    found = []
    count = points_at_once(predictor.model, options.points_per_batch)
    for start in range(0, len(points), count):
        asked = points[start : start + count]
        low_res_logits, predicted_iou, rows = good_masks(predictor, asked, options)
        for i, stability, mask in stable_masks(predictor, low_res_logits, options):
            code = encode(in_image(mask, crop, size))
            box, area = box_and_area(code, size, crop)
            if not is_cut_off(box, crop, size):
                x, y = asked[rows[i]].tolist()
                point = (x + crop.x0, y + crop.y0)
                iou = predicted_iou[i]
                found.append(AutomaticMask(code, area, box, iou, stability, point, crop))
    return found


def good_masks(
    predictor: SamPredictor, points: Points, options: AutomaticOptions
) -> tuple[Tensor, list[float], list[int]]:
    """The masks of points (N, 2), xy in pixels of the predictor's image, of high predicted_iou.

    Returns low_res_logits (K, S/4, S/4), predicted_iou of each, and the rows of their points.
    """
    model = predictor.model
    places = torch.from_numpy(points).float()
    places = points_to_model_frame(places, predictor.original_size, model.img_size)
    labels = torch.full((len(points), 1), FOREGROUND, device=predictor.device)
    low_res_logits, predicted_iou = predictor.decode(
        places[:, None].to(predictor.device), labels, multimask_output=True
    )
    good = predicted_iou > options.pred_iou_thresh
    if options.pred_iou_thresh <= 0:
        good = torch.ones_like(good)
    return low_res_logits[good], predicted_iou[good].tolist(), good.nonzero()[:, 0].tolist()


def stable_masks(
    predictor: SamPredictor, low_res_logits: Tensor, options: AutomaticOptions
) -> Iterator[tuple[int, float, Mask]]:
    """Those of the masks (K, S/4, S/4) that hardly change with the threshold.

    Yields the row, the stability score and the mask (H, W) in the predictor's image.
    """
    size, side = predictor.original_size, predictor.model.img_size
    threshold = predictor.mask_threshold
    count = max(1, PIXELS_AT_ONCE // max(math.prod(size), side * side))
    for start in range(0, len(low_res_logits), count):
        part = low_res_logits[start : start + count, None]
        mask_logits = upscale_logits(part, side, size)[:, 0]  # (count, H, W)
        scores = stability_scores(mask_logits, threshold, options.stability_score_offset)
        stable = scores >= options.stability_score_thresh
        for i, score in enumerate(scores.tolist()):
            if stable[i] or options.stability_score_thresh <= 0:
                mask = mask_logits[i] > threshold
                yield start + i, score, mask.cpu().numpy()


def stability_scores(mask_logits: Tensor, threshold: float, offset: float) -> Tensor:
    """IoU (N,) of each of the masks (N, H, W) at threshold + offset with that at the lower one.

    The first lies within the second, so their areas are enough. NaN where both are empty.
    """
    limits = threshold + offset, threshold - offset
    # Row by row in 32 bits: by itself a sum of booleans is one of 64 bits and takes twice as long.
    inner, outer = ((mask_logits > limit).sum(-1, dtype=torch.int32).sum(-1) for limit in limits)
    return inner / outer


def in_image(mask: Mask, crop: Crop, size: Size) -> Mask:
    """The mask of a crop in the whole image (H, W)."""
    if crop.size == size:
        return mask
    whole = np.zeros(size, dtype=bool)
    whole[crop.y0 : crop.y1, crop.x0 : crop.x1] = mask
    return whole


def box_and_area(code: bytes, size: Size, crop: Crop) -> tuple[Box, int]:
    """The `box` and `area` of an AutomaticMask, from the code of a mask (H, W)."""
    boxes, areas = boxes_and_areas([code], size)
    x0, y0, x1, y1 = boxes[0].tolist()
    box = (x0, y0, x1 - 1, y1 - 1) if areas[0] else (crop.x0, crop.y0, crop.x0, crop.y0)
    return box, int(areas[0])


def is_cut_off(box: Box, crop: Crop, size: Size) -> bool:
    """Whether a box ends at an edge of the crop that is no edge of the image (H, W)."""
    edges = zip(box, crop[:4], (0, 0, size[1], size[0]), strict=True)
    return any(abs(end - cut) <= EDGE < abs(end - edge) for end, cut, edge in edges)
