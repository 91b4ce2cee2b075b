"""Print how well a random decoder that has learned shapes segments nuclei by box, without images.

    python benchmarks/shape_start.py [--data ../shared/data/nuclei/val] [--steps 1250 2500 3750]
        [--plain]

A random decoder does not know where a prompt points. From images it learns that only after hundreds
of steps, each of which pays for the encoder. Here it decodes boxes on noise in place of embeddings,
and learns to give the ellipse that fills a box. Keys of its cross-attentions start as copies of the
queries, both times 2, so that tokens attend to cells at their position; not with `--plain`. Each
number of steps is a training of its own, of `demo_teacher` at 256 px by default.
"""

import argparse
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from mobile_sam.models.build import build_sam_model
from mobile_sam.models.mask_decoder import SINGLE
from mobile_sam.models.prompt_encoder import BOTTOM_RIGHT, STRIDE, TOP_LEFT
from mobile_sam.models.sam import Sam
from mobile_sam.models.two_way import ImageToTokens, TokensToImage
from mobile_sam.models.weights import to_original

_SMALLEST_SIDE = 6.0  # of a box, in pixels of the model frame
_LARGEST_SHARE = 1 / 3  # of a box's typical side in the model frame
_POINTS = 512  # of each mask, where its loss is computed
_POINTS_ANYWHERE = 64  # of these; all others are in and around the box
_MARGIN = 4.0  # pixels around a box, beside half of its sides
_WARMUP = 0.08  # share of the steps in which the learning rate rises


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


@torch.no_grad()
def match_positions(model: Sam, scale: float = 2.0) -> None:
    """Make tokens and cells at the same position attend to each other in the decoder.

    In its cross-attentions keys are projected as queries are, and both `scale` times as strongly.
    For random weights only: it replaces the projections of keys.
    """
    for module in model.mask_decoder.modules():
        if isinstance(module, TokensToImage | ImageToTokens):
            module.q_proj.weight.mul_(scale)
            module.k_proj.weight.copy_(module.q_proj.weight)
            module.k_proj.bias.copy_(module.q_proj.bias)


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
    truth = ellipses.contain(points)
    places = (2 * points / img_size - 1)[:, None]
    sampled = F.grid_sample(
        low_res_logits, places, mode="bilinear", padding_mode="border", align_corners=False
    )
    logits = sampled[:, 0, 0]
    probability = logits.sigmoid()
    overlap = 2 * (probability * truth).sum(1) + 1
    dice = 1 - overlap / (probability.sum(1) + truth.sum(1) + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) + dice.mean()


def learn_shapes(
    model: Sam, steps: int, objects: int = 16, learning_rate: float = 1e-3, seed: int = 0
) -> None:
    """Train prompt encoder and mask decoder to fill boxes with ellipses; depends on `seed` alone.

    The image encoder stays as it is. objects: boxes of a step, on one embedding of noise.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = [*model.prompt_encoder.parameters(), *model.mask_decoder.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
    labels = torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]]).expand(objects, 2)
    side = model.img_size // STRIDE
    warmup = max(1, round(_WARMUP * steps))
    for step in range(steps):
        progress = max(0, step - warmup) / max(1, steps - warmup)
        rate = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        strength = 0.3 + 0.7 * torch.rand(1, generator=generator)
        shape = (1, model.mask_decoder.transformer_dim, side, side)
        noise = strength * torch.randn(shape, generator=generator)
        ellipses = draw_ellipses(objects, model.img_size, generator)
        points = sample_points(ellipses, model.img_size, generator)
        corners = ellipses.boxes
        decoded = model.decode_all(noise, corners, labels, outputs=SINGLE)
        loss = shape_loss(decoded.low_res_logits, ellipses, points, model.img_size)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()


def main() -> None:
    """Print a line for each number of steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/nuclei/val"))
    parser.add_argument("--steps", type=int, nargs="+", default=[1250, 2500, 3750])
    parser.add_argument("--objects", type=int, default=16, help="boxes of a step")
    parser.add_argument("--model-type", default="demo_teacher")
    parser.add_argument("--img-size", type=int, default=256)
    parser.add_argument("--plain", action="store_true", help="leave the keys as they are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {args.model_type}, {args.img_size} px")
    for steps in args.steps:
        model = build_sam_model(args.model_type, args.img_size, seed=0)
        if not args.plain:
            match_positions(model)
        began = time.process_time()
        learn_shapes(model, steps, args.objects)
        seconds = time.process_time() - began
        iou = box_iou(model, args.data, args.img_size)
        print(f"{steps:6d} steps  {seconds:5.0f} s of CPU time  mIoU by box {iou:.3f}", flush=True)


def box_iou(model: Sam, data: Path, img_size: int) -> float:
    """Return the mean IoU by box on a directory with `image` and `mask`, by `evaluate`."""
    with tempfile.TemporaryDirectory() as directory:
        weights, out = Path(directory) / "shapes.pt", Path(directory) / "out"
        torch.save(to_original(model), weights)
        command = [sys.executable, "-m", "mobile_sam", "evaluate", "--weights", str(weights)]
        command += ["--img-size", str(img_size), "--images", str(data / "image"), "--masks"]
        command += [str(data / "mask"), "--protocols", "box", "--benchmark-repeats", "0"]
        subprocess.run([*command, "--out", str(out), "--quiet"], check=True, capture_output=True)
        (table,) = out.rglob("summary.csv")
        rows = pd.read_csv(table)
        return float(rows.loc[rows["prompt"] == "box", "miou"].iloc[-1])


if __name__ == "__main__":
    main()
