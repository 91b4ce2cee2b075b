"""Label Studio's backend: one click after another, on images whose embeddings are kept."""

from typing import Any

import numpy as np
import torch

from mobile_sam import SamPredictor, sam_model_registry

KEPT = ("features", "original_size", "input_size", "is_image_set")


def run(weights: str, image: np.ndarray) -> dict[str, Any]:
    """Clicks as lists of JSON, boxes, an embedding as an array, and an image that comes back."""
    sam = sam_model_registry["vit_t"](checkpoint=weights)
    # Without `eval` the original answers with attention biases from before the weights were loaded.
    sam.to(device="cpu").eval()
    predictor = SamPredictor(sam)
    predictor.set_image(np.ascontiguousarray(image, dtype=np.uint8))
    payload = {
        "image_shape": image.shape[:2],
        "image_embedding": predictor.get_image_embedding().cpu().numpy(),
    }
    kept = {name: getattr(predictor, name) for name in KEPT}

    def clicked(points: list[list[int]], labels: list[int], box: list[int] | None) -> Any:
        masks, scores, logits = predictor.predict(
            point_coords=np.array(points, dtype=np.float32) if points else None,
            point_labels=np.array(labels, dtype=np.float32) if labels else None,
            box=np.array(box, dtype=np.float32) if box else None,
            multimask_output=False,
            return_logits=True,
        )
        return masks[0, :, :].astype(np.float32), float(scores[0]), logits

    answers: dict[str, Any] = {
        "payload": payload,
        "click": clicked([[320, 200]], [1], None),
        "clicks": clicked([[320, 200], [20, 30]], [1, 0], None),
        "box": clicked([], [], [100, 50, 400, 300]),
        "both": clicked([[320, 200]], [1], [100, 50, 400, 300]),
    }
    predictor.reset_image()
    other = SamPredictor(sam)
    for name, value in kept.items():
        setattr(other, name, value)
    box = np.array([100, 50, 400, 300], dtype=np.float32)
    answers["again"] = other.predict(box=box[None, :], multimask_output=True, return_logits=True)
    # As its ONNX branch prepares clicks: the last point is padding.
    coords = np.array([[[320, 200], [0.0, 0.0]]])
    answers["onnx coords"] = other.transform.apply_coords(coords, payload["image_shape"])
    answers["threshold"] = other.model.mask_threshold
    features = torch.as_tensor(payload["image_embedding"], device=sam.device)
    sparse, dense = sam.prompt_encoder(
        points=(torch.as_tensor(answers["onnx coords"]).float(), torch.tensor([[1, -1]])),
        boxes=None,
        masks=None,
    )
    answers["sparse"] = sparse
    with torch.no_grad():
        answers["four masks"] = sam.mask_decoder.predict_masks(
            image_embeddings=features,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
    return answers
