"""Grounded-SAM with MobileSAM: a model built of its parts, and the boxes of a detector."""

from typing import Any

import numpy as np
import torch

from mobile_sam.modeling import MaskDecoder, PromptEncoder, Sam, TinyViT, TwoWayTransformer
from mobile_sam.predictor import SamPredictor
from mobile_sam.utils.amg import batched_mask_to_box

DETECTED = np.array([[100.0, 50.0, 400.0, 300.0], [20.5, 220.0, 330.0, 470.0]])


def setup_model() -> Sam:
    """MobileSAM with random weights."""
    return Sam(
        image_encoder=TinyViT(
            img_size=1024,
            in_chans=3,
            num_classes=1000,
            embed_dims=[64, 128, 160, 320],
            depths=[2, 2, 6, 2],
            num_heads=[2, 4, 5, 10],
            window_sizes=[7, 7, 14, 7],
            mlp_ratio=4.0,
            drop_rate=0.0,
            drop_path_rate=0.0,
            use_checkpoint=False,
            mbconv_expand_ratio=4.0,
            local_conv_size=3,
            layer_lr_decay=0.8,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=256,
            image_embedding_size=(64, 64),
            input_image_size=(1024, 1024),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


def run(weights: str, image: np.ndarray) -> dict[str, Any]:
    """The best of three masks of each box, one by one, and a grid of points at once."""
    sam = setup_model()
    sam.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    sam.to(device="cpu").eval()
    sam.mask_threshold = 0.6
    predictor = SamPredictor(sam)
    predictor.set_image(image[:, :, ::-1].copy(), image_format="BGR")
    best = []
    for box in DETECTED:
        masks, scores, _ = predictor.predict(box=box, multimask_output=True)
        best.append(masks[np.argmax(scores)])
    side = torch.tensor([200.0, 500.0, 800.0])
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).reshape(-1, 1, 2)
    grid_masks, iou, _ = predictor.predict_torch(
        point_coords=grid, point_labels=torch.ones(len(grid), 1), multimask_output=True
    )
    chosen = grid_masks[torch.arange(len(grid_masks)), iou.argmax(dim=1)]
    parts = [sam.prompt_encoder, sam.mask_decoder, sam]
    return {
        "best": np.array(best),
        "grid": grid_masks,
        "iou": iou,
        "boxes": batched_mask_to_box(chosen),
        "facts": [
            sam.prompt_encoder.embed_dim,
            tuple(sam.prompt_encoder.image_embedding_size),
            tuple(sam.prompt_encoder.input_image_size),
            tuple(sam.prompt_encoder.mask_input_size),
            sam.mask_decoder.num_mask_tokens,
            sam.mask_decoder.transformer_dim,
            sam.image_encoder.img_size,
        ],
        "parameters": [sum(p.numel() for p in part.parameters()) for part in parts[:2]],
        "on": str(sam.device),
    }
