"""Automatic masks: a grid of points prompts the model, and the confident, stable masks are kept.

Kirillov et al., arXiv:2304.02643, appendix B.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from mobile_sam.data.masks import Mask, Size, decode, encode, run_lengths
from mobile_sam.inference.grid import Points, generate_crops
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.proposals import (
    AutomaticMask,
    AutomaticOptions,
    Box,
    box_and_area,
    propose_masks,
)
from mobile_sam.models.sam import Sam


def automatic_masks(
    model: Sam,
    image: NDArray[np.uint8],
    options: AutomaticOptions | None = None,
    image_embedding: Tensor | None = None,
) -> list[AutomaticMask]:
    """Segment everything in an image without prompts.

    model: in eval mode.
    image: (H, W, 3), RGB in 0..255.
    options: None for the defaults.
    image_embedding: (1, C, S/16, S/16) of the whole image. If you already have it, pass it; then
    only crops are encoded.
    Returns masks by falling predicted_iou. With crops, masks of smaller crops come first; with
    min_mask_region_area, masks that had no small regions come first.
    """
    return _generate(SamPredictor(model), image, options or AutomaticOptions(), image_embedding)


def _generate(
    predictor: SamPredictor,
    image: NDArray[np.uint8],
    options: AutomaticOptions,
    image_embedding: Tensor | None = None,
) -> list[AutomaticMask]:
    size = image.shape[0], image.shape[1]
    grids = options.grid_passes()
    masks: list[AutomaticMask] = []
    for crop in generate_crops(size, options.crop_n_layers, options.crop_overlap_ratio):
        if crop.layer == 0 and image_embedding is not None:
            predictor.set_image_embedding(image_embedding, size)
        else:
            predictor.set_image(image[crop.y0 : crop.y1, crop.x0 : crop.x1])
        proposals = propose_masks(predictor, grids[crop.layer], crop, size, options)
        predictor.reset_image()
        scores = [mask.predicted_iou for mask in proposals]
        masks += remove_duplicates(proposals, scores, options.box_nms_thresh)
    if options.crop_n_layers > 0:
        scores = [-mask.crop.area for mask in masks]  # smaller crops show more detail
        masks = remove_duplicates(masks, scores, options.crop_nms_thresh)
    if options.min_mask_region_area > 0:
        box_iou = max(options.box_nms_thresh, options.crop_nms_thresh)
        masks = remove_small_regions(masks, size, options.min_mask_region_area, box_iou)
    return masks


class SamAutomaticMaskGenerator:
    """Automatic masks with the interface of the original `SamAutomaticMaskGenerator`.

    model: in eval mode. The other arguments are those of `AutomaticOptions`. Each is an attribute
    that may be changed between calls of `generate`; setting one of points_per_side and point_grids
    unsets the other.
    output_mode: format of `segmentation`: `binary_mask`, bool (H, W); `uncompressed_rle`, run
    lengths; or `coco_rle`, COCO's compressed code as text.
    predictor: encodes and decodes; it holds no image after `generate`.
    """

    def __init__(
        self,
        model: Sam,
        points_per_side: int | None = 32,
        points_per_batch: int | None = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[Points] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        mask_threshold: float | None = None,
        coarse_points_per_side: int | None = None,
    ) -> None:
        self.predictor = SamPredictor(model)
        self.output_mode = output_mode
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.mask_threshold = mask_threshold
        self.coarse_points_per_side = coarse_points_per_side
        self._points_per_side, self._point_grids = points_per_side, point_grids
        _ = self.options, self._mask_format()  # raise ValueError for options that make no sense

    @property
    def model(self) -> Sam:
        """The model of `predictor`."""
        return self.predictor.model

    @property
    def points_per_side(self) -> int | None:
        """Points along each side of the grid, or None; setting it unsets `point_grids`."""
        return self._points_per_side

    @points_per_side.setter
    def points_per_side(self, points: int | None) -> None:
        self._points_per_side, self._point_grids = points, None

    @property
    def point_grids(self) -> Sequence[Points]:
        """Points (N, 2), xy in the unit square, one grid each for the image and layers of crops."""
        return tuple(self.options.grids())

    @point_grids.setter
    def point_grids(self, grids: Sequence[Points]) -> None:
        self._points_per_side, self._point_grids = None, grids

    @property
    def options(self) -> AutomaticOptions:
        """Current options. Raises ValueError for options that contradict each other."""
        names = {field.name for field in fields(AutomaticOptions)} - {"point_grids"}
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        return AutomaticOptions(point_grids=self._point_grids, **values)

    def _mask_format(self) -> Callable[[bytes, Size], Any]:
        """Return the function of `output_mode`. Raises ValueError for an unknown mode."""
        if self.output_mode not in OUTPUT_MODES:
            raise ValueError(
                f"output_mode: {self.output_mode!r}; it must be one of {list(OUTPUT_MODES)}"
            )
        return OUTPUT_MODES[self.output_mode]

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Segment everything in an image; return a record per mask.

        image: (H, W, 3), RGB in 0..255.
        Keys: segmentation; area in pixels; bbox and crop_box, XYWH (bbox from the first to the last
        pixel, so one less than its width in pixels); predicted_iou; stability_score; point_coords,
        a list of the one point (x, y) that prompted the mask.
        """
        size = image.shape[0], image.shape[1]
        mask_format = self._mask_format()
        masks = _generate(self.predictor, image, self.options)
        return [mask_record(mask, mask_format(mask.code, size)) for mask in masks]


def mask_record(mask: AutomaticMask, segmentation: Any) -> dict[str, Any]:
    """Return the record of a mask with the original's keys. segmentation: in any output mode."""
    return {
        "segmentation": segmentation,
        "area": mask.area,
        "bbox": xywh(mask.box),
        "predicted_iou": mask.predicted_iou,
        "point_coords": [list(mask.point)],
        "stability_score": mask.stability_score,
        "crop_box": xywh(mask.crop[:4]),
    }


def xywh(box: Box) -> list[int]:
    """Convert a box (x0, y0, x1, y1) to its corner, width and height."""
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def uncompressed_rle(code: bytes, size: Size) -> dict[str, Any]:
    """Convert the code of a mask (H, W) to COCO's uncompressed run lengths."""
    return {"size": list(size), "counts": run_lengths(code).tolist()}


def compressed_rle(code: bytes, size: Size) -> dict[str, Any]:
    """Convert the code of a mask (H, W) to COCO's compressed run lengths, as text for JSON."""
    return {"size": list(size), "counts": code.decode("ascii")}


OUTPUT_MODES: dict[str, Callable[[bytes, Size], Any]] = {
    "binary_mask": decode,
    "uncompressed_rle": uncompressed_rle,
    "coco_rle": compressed_rle,
}


def remove_duplicates(
    masks: Sequence[AutomaticMask], scores: Sequence[float], box_iou: float
) -> list[AutomaticMask]:
    """Sort masks by falling score and drop those whose box IoU with an earlier one is too high.

    box_iou: largest box IoU that is kept. Equal scores keep their order.
    """
    boxes = torch.tensor([mask.box for mask in masks], dtype=torch.float32).reshape(-1, 4)
    rows = nms(boxes, torch.tensor(scores, dtype=torch.float32), box_iou)
    return [masks[i] for i in rows.tolist()]


def remove_small_regions(
    masks: Sequence[AutomaticMask], size: Size, min_area: int, box_iou: float
) -> list[AutomaticMask]:
    """Fill holes and remove islands of fewer than `min_area` pixels in masks (H, W).

    Duplicates that result are dropped in favour of unchanged masks, which come first.
    """
    changed = {}
    for i, mask in enumerate(masks):
        pixels = decode(mask.code, size)
        smooth = remove_islands(fill_holes(pixels, min_area), min_area)
        if smooth is not pixels:
            code = encode(smooth)
            box, area = box_and_area(code, size, mask.crop)
            changed[i] = replace(mask, code=code, box=box, area=area)
    scores = [float(i not in changed) for i in range(len(masks))]
    return remove_duplicates([changed.get(i, m) for i, m in enumerate(masks)], scores, box_iou)


def fill_holes(mask: Mask, min_area: float) -> Mask:
    """Fill background regions of fewer than `min_area` pixels in a mask (H, W).

    Returns the mask itself when there is no such region.
    """
    labels, areas = _connected_regions(~mask)
    filled = areas < min_area
    if not filled[1:].any():
        return mask
    filled[0] = True  # label 0 is the mask itself
    return filled[labels]


def remove_islands(mask: Mask, min_area: float) -> Mask:
    """Remove regions of fewer than `min_area` pixels from a mask (H, W); the largest always stays.

    Returns the mask itself when there is no such region.
    """
    labels, areas = _connected_regions(mask)
    large = areas >= min_area
    if large[1:].all():
        return mask
    large[0] = False
    if not large.any():
        large[1 + areas[1:].argmax()] = True
    return large[labels]


def _connected_regions(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Label connected regions: labels (H, W), 0 outside the mask, and the area of each label."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return np.asarray(labels, dtype=np.int32), stats[:, cv2.CC_STAT_AREA].astype(np.int64)
