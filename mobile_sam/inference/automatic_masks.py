"""Masks of everything in an image: a grid of points is asked, and the good answers are kept.

Kirillov et al., arXiv:2304.02643, appendix B.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.data.masks import Size, decode, run_lengths
from mobile_sam.inference.grid import Points, crops
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.proposals import AutomaticMask, AutomaticOptions, Box, masks_of_crop
from mobile_sam.inference.regions import without_duplicates, without_small_regions
from mobile_sam.models.sam import Sam


def automatic_masks(
    model: Sam,
    image: NDArray[np.uint8],
    options: AutomaticOptions | None = None,
    image_embedding: Tensor | None = None,
) -> list[AutomaticMask]:
    """Masks of everything that `model`, in eval mode, finds in an image (H, W, 3) in 0..255.

    options: None for the defaults.
    image_embedding: of the whole image, (1, C, S/16, S/16), if it is at hand; only crops are
    encoded then.
    Returns masks by falling predicted_iou; with crops those of smaller crops first; with
    min_mask_region_area those without small regions first.
    """
    options = options or AutomaticOptions()
    size = image.shape[0], image.shape[1]
    grids = options.rounds()
    predictor = SamPredictor(model, options.mask_threshold)
    found: list[AutomaticMask] = []
    for crop in crops(size, options.crop_n_layers, options.crop_overlap_ratio):
        if crop.layer == 0 and image_embedding is not None:
            predictor.set_image_embedding(image_embedding, size)
        else:
            predictor.set_image(image[crop.y0 : crop.y1, crop.x0 : crop.x1])
        masks = masks_of_crop(predictor, grids[crop.layer], crop, size, options)
        scores = [mask.predicted_iou for mask in masks]
        found += without_duplicates(masks, scores, options.box_nms_thresh)
    if options.crop_n_layers > 0:
        closeness = [-mask.crop.area for mask in found]
        found = without_duplicates(found, closeness, options.crop_nms_thresh)
    if options.min_mask_region_area > 0:
        box_iou = max(options.box_nms_thresh, options.crop_nms_thresh)
        found = without_small_regions(found, size, options.min_mask_region_area, box_iou)
    return found


class SamAutomaticMaskGenerator:
    """The interface of the original `SamAutomaticMaskGenerator` on `automatic_masks`.

    model: in eval mode. options: those of `AutomaticOptions`, by name.
    output_mode: how `segmentation` is given: `binary_mask`, bool (H, W); `uncompressed_rle`, its
    run lengths; or `coco_rle`, COCO's compressed code as text.
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
        if output_mode not in OUTPUT_MODES:
            raise ValueError(
                f"output_mode: {output_mode!r}; it must be one of {list(OUTPUT_MODES)}"
            )
        self.model = model
        self.output_mode = output_mode
        self.options = AutomaticOptions(
            points_per_side,
            points_per_batch,
            pred_iou_thresh,
            stability_score_thresh,
            stability_score_offset,
            box_nms_thresh,
            crop_n_layers,
            crop_nms_thresh,
            crop_overlap_ratio,
            crop_n_points_downscale_factor,
            point_grids,
            min_mask_region_area,
            mask_threshold,
            coarse_points_per_side,
        )

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """A record of each mask in an image, (H, W, 3) RGB in 0..255.

        Keys: segmentation; area in pixels; bbox and crop_box, XYWH (bbox from the first to the last
        pixel, so one less than its width in pixels); predicted_iou; stability_score; point_coords,
        the one point (x, y) that was asked for.
        """
        size = image.shape[0], image.shape[1]
        written = OUTPUT_MODES[self.output_mode]
        found = automatic_masks(self.model, image, self.options)
        return [{"segmentation": written(mask.code, size), **facts(mask)} for mask in found]


def facts(mask: AutomaticMask) -> dict[str, Any]:
    """All of an original record but the segmentation."""
    return {
        "area": mask.area,
        "bbox": xywh(mask.box),
        "predicted_iou": mask.predicted_iou,
        "point_coords": [list(mask.point)],
        "stability_score": mask.stability_score,
        "crop_box": xywh(mask.crop[:4]),
    }


def xywh(box: Box) -> list[int]:
    """A corner and the sides of a box (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def uncompressed(code: bytes, size: Size) -> dict[str, Any]:
    """COCO's plain run lengths of a mask (H, W)."""
    return {"size": list(size), "counts": run_lengths(code).tolist()}


def compressed(code: bytes, size: Size) -> dict[str, Any]:
    """COCO's compressed run-length code of a mask (H, W), as text, for JSON."""
    return {"size": list(size), "counts": code.decode("ascii")}


OUTPUT_MODES: dict[str, Callable[[bytes, Size], Any]] = {
    "binary_mask": decode,
    "uncompressed_rle": uncompressed,
    "coco_rle": compressed,
}
