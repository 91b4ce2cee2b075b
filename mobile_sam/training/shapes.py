"""Random weights whose decoder knows what a box means: the start of `checkpoint: "shapes"`.

A random decoder does not know where a prompt points. From images it learns that only after hundreds
of steps, each of which pays for the image encoder. Here it decodes boxes on noise in place of
embeddings, and learns to give the ellipse that fills a box. No image is needed.
"""

import logging
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mobile_sam.models.mask_decoder import SINGLE
from mobile_sam.models.prompt_encoder import BOTTOM_RIGHT, STRIDE, TOP_LEFT
from mobile_sam.models.sam import Sam
from mobile_sam.models.two_way import ImageToTokens, TokensToImage
from mobile_sam.models.weights import write_weights
from mobile_sam.training.losses import dice
from mobile_sam.training.mask_points import logits_at
from mobile_sam.training.optim import lr_factor

log = logging.getLogger(__name__)

_OBJECTS = 16  # boxes of a step, on one embedding of noise
_LEARNING_RATE = 1e-3
_WARMUP = 0.08  # share of the steps in which the learning rate rises
_SCALE = 2.0  # of queries and keys, so that attention is sharp from the first step
_SMALLEST_SIDE = 6.0  # of a box, in pixels of the model frame
_LARGEST_SHARE = 0.5  # of a box's typical side in the model frame
_POINTS = 512  # of each mask, where its loss is computed
_POINTS_ANYWHERE = 64  # of these; all others are in and around the box
_MARGIN = 4.0  # pixels around a box, beside half of its sides


class Ellipses(NamedTuple):
    """Ellipses that fill boxes. centres, radii: (N, 2) xy in pixels of the model frame."""

    centres: Tensor
    radii: Tensor

    @property
    def boxes(self) -> Tensor:
        """Corners of the boxes around the ellipses, (N, 2, 2) xy."""
        return torch.stack([self.centres - self.radii, self.centres + self.radii], dim=1)

    def contain(self, points: Tensor) -> Tensor:
        """Return which points (N, K, 2) are inside their ellipse, (N, K), 0 or 1."""
        offsets = (points - self.centres[:, None]) / self.radii[:, None]
        return (offsets.square().sum(-1) <= 1).float()


def write_shape_weights(model: Sam, steps: int, seed: int, path: Path) -> None:
    """Teach `model` shapes, and write its weights under original names to `path`."""
    match_positions(model)
    learn_shapes(model, steps, seed)
    write_weights(model, path)


@torch.no_grad()
def match_positions(model: Sam) -> None:
    """Make tokens and cells at the same position attend to each other in the decoder.

    In its cross-attentions, the projections of keys become copies of those of queries, and both
    twice as strong. For random weights only.
    """
    for module in model.mask_decoder.modules():
        if isinstance(module, TokensToImage | ImageToTokens):
            module.q_proj.weight.mul_(_SCALE)
            module.k_proj.weight.copy_(module.q_proj.weight)
            module.k_proj.bias.copy_(module.q_proj.bias)


def learn_shapes(model: Sam, steps: int, seed: int, objects: int = _OBJECTS) -> None:
    """Train prompt encoder and mask decoder to fill boxes with ellipses; `seed` decides all draws.

    The image encoder stays as it is. objects: boxes of a step.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = [*model.prompt_encoder.parameters(), *model.mask_decoder.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
    warmup = max(1, round(_WARMUP * steps))
    total, logged = 0.0, 0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * lr_factor(step, steps, warmup, "cosine")
        loss = step_loss(model, objects, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        total += float(loss.detach())
        if (step + 1) % max(1, steps // 10) == 0 or step + 1 == steps:
            log.info("step %d/%d  loss %.4f", step + 1, steps, total / (step + 1 - logged))
            total, logged = 0.0, step + 1


def step_loss(model: Sam, objects: int, generator: torch.Generator) -> Tensor:
    """Draw ellipses and noise, decode the boxes, and return the loss, a scalar."""
    ellipses = draw_ellipses(objects, model.img_size, generator)
    points = sample_points(ellipses, model.img_size, generator).to(model.device)
    ellipses = Ellipses(*(tensor.to(model.device) for tensor in ellipses))
    noise = _draw_noise(model, generator)
    labels = torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]], device=model.device).expand(objects, 2)
    decoded = model.decode_all(noise, ellipses.boxes, labels, outputs=SINGLE)
    return shape_loss(decoded.low_res_logits, ellipses, points, model.img_size)


def _draw_noise(model: Sam, generator: torch.Generator) -> Tensor:
    """Draw an embedding (1, C, S/16, S/16); it is weaker than an encoder's, by a random factor."""
    side = model.img_size // STRIDE
    strength = 0.3 + 0.7 * torch.rand(1, generator=generator)
    shape = (1, model.mask_decoder.transformer_dim, side, side)
    return (strength * torch.randn(shape, generator=generator)).to(model.device)


def draw_ellipses(count: int, img_size: int, generator: torch.Generator) -> Ellipses:
    """Draw ellipses of many sizes; parts beyond the model frame are cut off with their boxes."""
    shares = torch.rand(count, generator=generator)
    ratios = (0.3 * torch.randn(count, generator=generator)).exp()
    centres = img_size * torch.rand(count, 2, generator=generator)
    span = math.log(img_size * _LARGEST_SHARE / _SMALLEST_SIDE)
    sides = _SMALLEST_SIDE * (span * shares).exp()
    half = torch.stack([sides, (sides * ratios).clamp(5, 0.6 * img_size)], dim=1) / 2
    first = (centres - half).clamp(0, img_size - 4)
    last = torch.maximum((centres + half).clamp(max=img_size), first + 4)
    return Ellipses((first + last) / 2, (last - first) / 2)


def sample_points(ellipses: Ellipses, img_size: int, generator: torch.Generator) -> Tensor:
    """Draw points (N, K, 2), xy pixels: most in boxes twice as large, some anywhere."""
    drawn = torch.rand(len(ellipses.centres), _POINTS, 2, generator=generator)
    reach = 4 * ellipses.radii + 2 * _MARGIN
    points = ellipses.centres[:, None] + (drawn - 0.5) * reach[:, None]
    points[:, :_POINTS_ANYWHERE] = img_size * drawn[:, :_POINTS_ANYWHERE]
    return points.clamp(0, img_size)


def shape_loss(low_res_logits: Tensor, ellipses: Ellipses, points: Tensor, img_size: int) -> Tensor:
    """Return cross-entropy plus Dice loss at points (N, K, 2) of masks (N, 1, S/4, S/4)."""
    truth = ellipses.contain(points)[:, None]
    logits = logits_at(low_res_logits[:, 0], points, img_size)[:, None]
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth)
    return cross_entropy + dice(logits, truth, torch.ones_like(truth)).mean()
