"""Mask proposals: masks that a model predicts with confidence at the points of a grid.

Kirillov et al., arXiv:2304.02643, appendix B.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mobile_sam.coordinates import points_to_model_frame, upscale_logits, upscale_windows
from mobile_sam.data.masks import Mask, Size, boxes_and_areas, encode, union
from mobile_sam.inference.grid import Crop, Points, point_grids
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.models.prompt_encoder import FOREGROUND
from mobile_sam.models.sam import Sam

Box = tuple[int, int, int, int]

# Logits that are upscaled at a time: 64 MB of them, however many masks there are.
PIXELS_PER_PASS = 1 << 24
# Distance in pixels from an edge of its crop at which a mask counts as cut off.
EDGE = 20
# Activations of few prompts fit into a CPU's cache: with 64, each takes half as long again.
CPU_POINTS_PER_PASS = 4
# A GPU gains nothing from more.
_MAX_POINTS_PER_PASS = 1024
# The decoder held at most 5 maps of the embedding's size per point, measured in float32 on a CPU.
_MAPS_PER_POINT = 8


@dataclass(frozen=True)
class AutomaticOptions:
    """Options of automatic masks, with the original's names and defaults.

    points_per_side: grid points along each side of the image; None with `point_grids`, one grid of
    points (N, 2), xy in the unit square, for the image and each layer of crops.
    points_per_batch: largest number of prompts per pass of the decoder, see `points_per_pass`;
    None: as many as memory allows.
    pred_iou_thresh: masks with a higher predicted_iou are kept; 0 keeps all.
    stability_score_thresh: masks with at least this stability score are kept; 0 keeps all. The
    score is the IoU of the masks at `mask_threshold` plus and minus `stability_score_offset`, in
    logits.
    box_nms_thresh, crop_nms_thresh: box IoU above which masks are duplicates, within a crop and
    between crops.
    crop_n_layers, crop_overlap_ratio, crop_n_points_downscale_factor: see `generate_crops` and
    `point_grids`.
    min_mask_region_area: smaller holes and islands are removed, in pixels; 0 keeps all.
    mask_threshold: logits above it belong to a mask; None: the model's threshold.
    coarse_points_per_side: points along each side of a first, coarse grid; points of the main grid
    are then decoded only outside the masks found so far. None: no such grid, as in the original.
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
        layers = len(self.grids())
        if layers <= self.crop_n_layers:
            raise ValueError(
                f"point_grids: {layers} grids for the image and {self.crop_n_layers} layers of "
                f"crops; give one for each"
            )
        self.grid_passes()

    def grid_passes(self) -> list[list[Points]]:
        """Return the grids (N, 2) of the image and each layer of crops, a coarse grid first."""
        grids = [[grid] for grid in self.grids()]
        if self.coarse_points_per_side is None:
            return grids
        coarse = self._regular_grids("coarse_points_per_side", self.coarse_points_per_side)
        return [[first, *rest] for first, rest in zip(coarse, grids, strict=False)]

    def grids(self) -> Sequence[Points]:
        """Return the main grid (N, 2), xy in the unit square, of the image and each crop layer."""
        if self.points_per_side is not None and self.point_grids is None:
            return self._regular_grids("points_per_side", self.points_per_side)
        if self.points_per_side is None and self.point_grids is not None:
            return self.point_grids
        raise ValueError("give one of points_per_side or point_grids, and set the other to None")

    def _regular_grids(self, option: str, side: int) -> list[Points]:
        return point_grids(side, self.crop_n_layers, self.crop_n_points_downscale_factor, option)


@dataclass(frozen=True)
class AutomaticMask:
    """Mask predicted without a user's prompt, in the image frame, in pixels.

    code: COCO's compressed run-length code of the mask (H, W).
    box: (x0, y0, x1, y1) of its first and last columns and rows, x1 and y1 inclusive as in SAM; of
    an empty mask the top left pixel of the crop.
    stability_score: IoU of the masks at a higher and a lower threshold.
    point: (x, y) of the grid that prompted it. crop: the part of the image that was encoded.
    """

    code: bytes
    area: int
    box: Box
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop: Crop


def propose_masks(
    predictor: SamPredictor,
    grids: Sequence[Points],
    crop: Crop,
    size: Size,
    options: AutomaticOptions,
) -> list[AutomaticMask]:
    """Propose confident, stable masks that the crop does not cut off; there may be duplicates.

    predictor: with the crop as its image.
    grids: (N, 2), xy in the unit square, decoded one after another; points of later grids inside
    earlier masks are skipped (Shu et al., arXiv:2312.13789).
    size: (H, W) of the whole image.
    """
    height, width = crop.size
    masks: list[AutomaticMask] = []
    for grid in grids:
        points = uncovered_points(grid * (width, height), masks, crop, size)
        masks += _propose_at_points(predictor, points, crop, size, options)
    return masks


def uncovered_points(
    points: Points, masks: Sequence[AutomaticMask], crop: Crop, size: Size
) -> Points:
    """Select the points (N, 2), xy in pixels of the crop, that lie in none of the masks."""
    covered = union([mask.code for mask in masks], size)  # (H, W)
    places = np.add(points, (crop.x0, crop.y0)).astype(np.int64)
    x, y = np.minimum(places, (crop.x1 - 1, crop.y1 - 1)).T
    return points[~covered[y, x]]


def _propose_at_points(
    predictor: SamPredictor, points: Points, crop: Crop, size: Size, options: AutomaticOptions
) -> list[AutomaticMask]:
    """Propose masks as `propose_masks` does, at points (N, 2), xy in pixels of the crop."""
    masks = []
    count = points_per_pass(predictor.model, options.points_per_batch)
    for start in range(0, len(points), count):
        batch = points[start : start + count]
        low_res_logits, predicted_iou, rows = decode_points(predictor, batch, options)
        for i, stability, mask in stable_masks(predictor, low_res_logits, options):
            code = encode(uncrop_mask(mask, crop, size))
            box, area = box_and_area(code, size, crop)
            if not is_near_crop_edge(box, crop, size):
                x, y = batch[rows[i]].tolist()
                point = (x + crop.x0, y + crop.y0)
                iou = predicted_iou[i]
                masks.append(AutomaticMask(code, area, box, iou, stability, point, crop))
    return masks


def points_per_pass(model: Sam, requested: int | None) -> int:
    """Return how many points `model` decodes at a time.

    requested: None for as many as fit into half of a GPU's free memory.
    On a CPU at most CPU_POINTS_PER_PASS.
    """
    if model.device.type == "cpu":
        return min(requested or CPU_POINTS_PER_PASS, CPU_POINTS_PER_PASS)
    if requested is not None:
        return requested
    free, _ = torch.cuda.mem_get_info(model.device)
    cached = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return max(1, min(_MAX_POINTS_PER_PASS, (free + cached) // 2 // _bytes_per_point(model)))


def _bytes_per_point(model: Sam) -> int:
    cells, channels = model.prompt_encoder.grid_size**2, model.prompt_encoder.embed_dim
    return _MAPS_PER_POINT * cells * channels * model.dtype.itemsize


def decode_points(
    predictor: SamPredictor, points: Points, options: AutomaticOptions
) -> tuple[Tensor, list[float], list[int]]:
    """Decode points and keep the masks of high predicted_iou.

    points: (N, 2), xy in pixels of the predictor's image.
    Returns low_res_logits (K, S/4, S/4), predicted_iou of each, and the rows of their points.
    """
    model = predictor.model
    coords = torch.from_numpy(points).float()
    coords = points_to_model_frame(coords, predictor.original_size, model.img_size)
    labels = torch.full((len(points), 1), FOREGROUND, device=predictor.device)
    low_res_logits, predicted_iou = predictor.decode(
        coords[:, None].to(predictor.device), labels, multimask_output=True
    )
    confident = predicted_iou > options.pred_iou_thresh
    if options.pred_iou_thresh <= 0:
        confident = torch.ones_like(confident)
    return (
        low_res_logits[confident],
        predicted_iou[confident].tolist(),
        confident.nonzero()[:, 0].tolist(),
    )


def stable_masks(
    predictor: SamPredictor, low_res_logits: Tensor, options: AutomaticOptions
) -> Iterator[tuple[int, float, Mask]]:
    """Select the masks (K, S/4, S/4) that hardly change with the threshold.

    Yields the row, the stability score and the mask (H, W) in the predictor's image.
    """
    size, side = predictor.original_size, predictor.model.img_size
    threshold = options.mask_threshold
    if threshold is None:
        threshold = predictor.mask_threshold
    on_cpu = low_res_logits.device.type == "cpu" and low_res_logits.dtype == torch.float32
    select = stable_in_windows if on_cpu else stable_in_batches
    yield from select(low_res_logits, threshold, side, size, options)


def stable_in_batches(
    low_res_logits: Tensor, threshold: float, side: int, size: Size, options: AutomaticOptions
) -> Iterator[tuple[int, float, Mask]]:
    """Select masks as `stable_masks` does, several whole images at a time.

    side: of the model frame, in pixels. size: (H, W) of the predictor's image.
    """
    count = max(1, PIXELS_PER_PASS // max(math.prod(size), side * side))
    for start in range(0, len(low_res_logits), count):
        part = low_res_logits[start : start + count, None]
        mask_logits = upscale_logits(part, side, size)[:, 0]  # (count, H, W)
        scores = stability_scores(mask_logits, threshold, options.stability_score_offset)
        stable = scores >= options.stability_score_thresh
        for i, score in enumerate(scores.tolist()):
            if stable[i] or options.stability_score_thresh <= 0:
                mask = mask_logits[i] > threshold
                yield start + i, score, mask.cpu().numpy()


def stable_in_windows(
    low_res_logits: Tensor, threshold: float, side: int, size: Size, options: AutomaticOptions
) -> Iterator[tuple[int, float, Mask]]:
    """Select masks as `stable_in_batches` does, with the same values, where logits are high.

    On a CPU, numpy counts pixels several times as fast as torch.
    """
    offset, least = options.stability_score_offset, options.stability_score_thresh
    windows = upscale_windows(low_res_logits, threshold - abs(offset), side, size)
    for row, (window, x0, y0) in enumerate(windows):
        logits = window.numpy()
        inner, outer = (
            np.float32(np.count_nonzero(logits > limit))
            for limit in (threshold + offset, threshold - offset)
        )
        with np.errstate(invalid="ignore", divide="ignore"):  # NaN and infinity, as in torch
            score = inner / outer
        if score >= least or least <= 0:
            mask = np.zeros(size, dtype=bool)
            height, width = logits.shape
            mask[y0 : y0 + height, x0 : x0 + width] = logits > threshold
            yield row, float(score), mask


def stability_scores(mask_logits: Tensor, threshold: float, offset: float) -> Tensor:
    """Compute the IoU (N,) of masks (N, H, W) at threshold + offset and at threshold - offset.

    The first lies within the second, so their areas are enough. NaN if both are empty.
    """
    limits = threshold + offset, threshold - offset
    # Row by row in 32 bits: a sum of booleans defaults to 64 bits and takes twice as long.
    inner, outer = ((mask_logits > limit).sum(-1, dtype=torch.int32).sum(-1) for limit in limits)
    return inner / outer


def uncrop_mask(mask: Mask, crop: Crop, size: Size) -> Mask:
    """Place the mask of a crop in the whole image (H, W)."""
    if crop.size == size:
        return mask
    uncropped = np.zeros(size, dtype=bool)
    uncropped[crop.y0 : crop.y1, crop.x0 : crop.x1] = mask
    return uncropped


def box_and_area(code: bytes, size: Size, crop: Crop) -> tuple[Box, int]:
    """Return the `box` and `area` of an AutomaticMask, from the code of a mask (H, W)."""
    boxes, areas = boxes_and_areas([code], size)
    x0, y0, x1, y1 = boxes[0].tolist()
    box = (x0, y0, x1 - 1, y1 - 1) if areas[0] else (crop.x0, crop.y0, crop.x0, crop.y0)
    return box, int(areas[0])


def is_near_crop_edge(box: Box, crop: Crop, size: Size) -> bool:
    """Return whether a box ends at an edge of the crop that is not an edge of the image (H, W)."""
    edges = zip(box, crop[:4], (0, 0, size[1], size[0]), strict=True)
    return any(abs(end - cut) <= EDGE < abs(end - edge) for end, cut, edge in edges)
