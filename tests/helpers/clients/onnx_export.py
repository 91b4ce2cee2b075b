"""MobileSAM's `scripts/export_onnx_model.py` and its notebook, up to the file."""

from typing import Any

import numpy as np
import torch

from mobile_sam.build_sam import build_sam_vit_t
from mobile_sam.utils.onnx import SamOnnxModel


def run(weights: str, image: np.ndarray) -> dict[str, Any]:
    """Answers of the model that the script exports, with each of its options."""
    sam = build_sam_vit_t(checkpoint=weights)
    embed_size = sam.prompt_encoder.image_embedding_size
    draw = torch.Generator().manual_seed(0)
    answers: dict[str, Any] = {}
    for name, points, has_mask, options in (
        ("plain", 5, 1, {"return_single_mask": False}),
        ("single", 2, 0, {"return_single_mask": True}),
        ("many points", 3, 0, {"return_single_mask": True}),
        ("stability", 2, 1, {"return_single_mask": True, "use_stability_score": True}),
        ("metrics", 2, 0, {"return_single_mask": False, "return_extra_metrics": True}),
    ):
        inputs = {
            "image_embeddings": torch.randn(
                1, sam.prompt_encoder.embed_dim, *embed_size, generator=draw
            ),
            "point_coords": torch.rand(1, points, 2, generator=draw) * 1024,
            "point_labels": torch.randint(-1, 4, (1, points), generator=draw).float(),
            "mask_input": torch.randn(1, 1, *[4 * x for x in embed_size], generator=draw),
            "has_mask_input": torch.tensor([has_mask], dtype=torch.float),
            "orig_im_size": torch.tensor(image.shape[:2], dtype=torch.float),
        }
        answers[name] = SamOnnxModel(model=sam, **options)(**inputs)
    return answers
