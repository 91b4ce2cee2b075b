"""samgeo: everything in a raster, layer upon layer, then boxes in its pixels."""

from typing import Any

import numpy as np
import torch

from mobile_sam import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from mobile_sam.utils.amg import build_all_layer_point_grids

SETTINGS = {
    "points_per_side": 3,
    "pred_iou_thresh": 0.86,
    "stability_score_thresh": 0.5,
    "stability_score_offset": 0.02,
    "crop_n_layers": 0,
    "crop_n_points_downscale_factor": 2,
    "min_mask_region_area": 100,
}


def layered(annotations: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """Numbers of masks (H, W), the smallest on top, with their outlines left out."""
    objects = np.zeros(size, dtype=np.int64)
    ordered = sorted(annotations, key=lambda annotation: annotation["area"], reverse=True)
    for number, annotation in enumerate(ordered, start=1):
        mask = (annotation["segmentation"] > 0).astype(np.uint8)
        objects[mask > 0] = number
    return objects


def run(weights: str, image: np.ndarray) -> dict[str, Any]:
    """Options changed between two images, a grid of one's own, and boxes as a tensor."""
    sam = sam_model_registry["vit_t"](checkpoint=weights)
    # Without `eval` the original answers with attention biases from before the weights were loaded.
    sam.to(device="cpu").eval()
    sam.mask_threshold = 0.6
    generator = SamAutomaticMaskGenerator(sam, **SETTINGS)
    first = generator.generate(image)
    before = [generator.pred_iou_thresh, generator.box_nms_thresh, generator.crop_n_layers]
    generator.pred_iou_thresh = 0
    generator.stability_score_thresh = 0.4
    generator.box_nms_thresh = 0.9
    generator.min_mask_region_area = 0
    generator.point_grids = build_all_layer_point_grids(
        2, generator.crop_n_layers, generator.crop_n_points_downscale_factor
    )
    generator.output_mode = "coco_rle"
    second = generator.generate(image)
    answers: dict[str, Any] = {
        "first": first,
        "layered": layered(first, image.shape[:2]),
        "before": before,
        "second": second,
        "holds an image": generator.predictor.is_image_set,
    }
    predictor: SamPredictor = generator.predictor
    predictor.set_image(image)
    boxes = torch.tensor([[100, 50, 400, 300], [0, 0, 639, 479]], device=predictor.device)
    answers["boxes"] = predictor.predict_torch(
        point_coords=None,
        point_labels=None,
        boxes=predictor.transform.apply_boxes_torch(boxes, image.shape[:2]),
        multimask_output=False,
    )
    points = np.array([[320, 200], [40, 430]])
    coords = predictor.transform.apply_coords(points, image.shape[:2])
    answers["points"] = predictor.predict_torch(
        point_coords=torch.as_tensor(coords, dtype=torch.float)[:, None, :],
        point_labels=torch.as_tensor([1, 0], dtype=torch.int)[:, None],
        multimask_output=True,
        return_logits=True,
    )
    return answers
