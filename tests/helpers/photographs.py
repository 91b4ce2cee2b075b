"""Random weights and a drawn image, the same for the original code and for ours."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mobile_sam.data.images import read_image
from mobile_sam.data.synthetic import scene
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam

MASK_THRESHOLD = 0.6


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.2, generator=generator)
    for name, value in model.named_parameters():
        if any(word in name for word in ("attention_biases", "rel_pos", "pos_embed")):
            value.normal_(0, 0.5, generator=generator)


@torch.no_grad()
def patchy_model() -> Sam:
    """A `vit_t` of random weights: at MASK_THRESHOLD masks are patches that depend on the point."""
    model = build_sam_model("vit_t", seed=1).eval()
    randomise(model)
    decoder = model.mask_decoder
    for name, value in decoder.named_parameters():
        if value.ndim > 1 and "transformer" not in name:
            value.mul_(2)
    decoder.iou_prediction_head.layers[-1].bias.add_(1)
    for upscaling in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        # Masks of the same pixels in each cell are a fine grain all over the image.
        upscaling.weight[:] = upscaling.weight.mean((2, 3), keepdim=True)
    for layer in decoder.transformer.layers:
        # Cells look at tokens that are like them, so at the point beside them.
        attention = layer.cross_attn_image_to_token
        attention.q_proj.weight.mul_(3)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.v_proj.weight.mul_(4)
        attention.out_proj.weight.mul_(4)
    return model


def photograph() -> np.ndarray:
    """A drawn scene of 480 x 640 pixels, or the file that $MOBILE_SAM_PHOTOGRAPH names."""
    if "MOBILE_SAM_PHOTOGRAPH" in os.environ:
        return read_image(Path(os.environ["MOBILE_SAM_PHOTOGRAPH"])).copy()
    pixels, _ = scene(640, np.random.default_rng(1))
    return np.ascontiguousarray(pixels[:480])
