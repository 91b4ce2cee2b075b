"""MobileSAM's own notebooks: `predictor_example` and `automatic_mask_generator_example`."""

from typing import Any

import numpy as np
import torch

from mobile_sam import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from mobile_sam.utils.transforms import ResizeLongestSide

POINT, LABEL = np.array([[320, 200]]), np.array([1])
POINTS, LABELS = np.array([[320, 200], [130, 350.5]]), np.array([1, 0])
BOX = np.array([100, 50, 400, 300])
BOXES = torch.tensor([[100, 50, 400, 300], [20, 220, 330, 470], [0, 0, 639, 479]])


def predict(predictor: Any) -> dict[str, Any]:
    """One prompt after another, as in the first notebook."""
    first = predictor.predict(point_coords=POINT, point_labels=LABEL, multimask_output=True)
    masks, scores, logits = first
    again = logits[np.argmax(scores), :, :][None, :, :]
    answers = {
        "point": (masks, scores, logits),
        "mask": predictor.predict(mask_input=again, multimask_output=False, return_logits=True),
    }
    prompts: dict[str, dict[str, Any]] = {
        "points": {"point_coords": POINTS, "point_labels": LABELS},
        "box": {"box": BOX[None, :]},
        "both": {"point_coords": POINT, "point_labels": np.array([0]), "box": BOX},
        "refined": {"point_coords": POINTS, "point_labels": LABELS, "mask_input": again},
    }
    for name, prompt in prompts.items():
        for multimask in (False, True):
            answers[f"{name} {multimask}"] = predictor.predict(
                **prompt, multimask_output=multimask, return_logits=True
            )
    return answers


def predict_torch(predictor: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Several boxes at once, alone and each with a point and a mask."""
    device = predictor.device
    boxes = predictor.transform.apply_boxes_torch(BOXES.to(device), size)
    coords = predictor.transform.apply_coords_torch(BOXES[:, None, 2:].to(device) / 2, size)
    labels = torch.ones(len(boxes), 1, device=device)
    found = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=boxes, multimask_output=False
    )
    rest = predictor.predict_torch(
        coords, labels, boxes, found[2], multimask_output=True, return_logits=True
    )
    points = predictor.predict_torch(coords, labels, return_logits=True)
    return {"boxes": found, "all": rest, "only points": points}


def forward(sam: Any, image: np.ndarray) -> list[dict[str, torch.Tensor]]:
    """Two images of different shapes, end to end."""
    resize = ResizeLongestSide(sam.image_encoder.img_size)

    def prepared(pixels: np.ndarray) -> torch.Tensor:
        resized = torch.as_tensor(resize.apply_image(pixels), device=sam.device)
        return resized.permute(2, 0, 1).contiguous()

    upright = np.ascontiguousarray(image[:, :300])
    boxes = resize.apply_boxes_torch(BOXES, image.shape[:2])
    coords = resize.apply_coords_torch(torch.tensor([[[150, 200]]]), upright.shape[:2])
    return sam(
        [
            {"image": prepared(image), "boxes": boxes, "original_size": image.shape[:2]},
            {
                "image": prepared(upright),
                "point_coords": coords,
                "point_labels": torch.tensor([[1]]),
                "original_size": upright.shape[:2],
            },
        ],
        multimask_output=False,
    )


def generate(sam: Any, image: np.ndarray) -> list[dict[str, Any]]:
    """Everything in the image, with parameters of one's own."""
    generator = SamAutomaticMaskGenerator(
        model=sam,
        points_per_side=4,
        pred_iou_thresh=0.75,
        stability_score_thresh=0.5,
        stability_score_offset=0.02,
        min_mask_region_area=100,
    )
    return generator.generate(image)


def run(weights: str, image: np.ndarray) -> dict[str, Any]:
    """Every call of both notebooks."""
    sam = sam_model_registry["vit_t"](checkpoint=weights)
    sam.to(device="cpu")
    sam.eval()
    sam.mask_threshold = 0.6
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    answers = {
        "names": sorted({"default", "vit_h", "vit_l", "vit_b", "vit_t"} & set(sam_model_registry)),
        "facts": [sam.mask_threshold, sam.image_format, sam.image_encoder.img_size],
        "colours": torch.stack([sam.pixel_mean, sam.pixel_std]),
        "sizes": [tuple(predictor.original_size), tuple(predictor.input_size)],
        "embedding": predictor.get_image_embedding(),
        "predict": predict(predictor),
        "predict_torch": predict_torch(predictor, image.shape[:2]),
    }
    predictor.reset_image()
    answers["is_image_set"] = predictor.is_image_set
    with torch.no_grad():
        answers["forward"] = forward(sam, image)
    answers["generate"] = generate(sam, image)
    return answers
