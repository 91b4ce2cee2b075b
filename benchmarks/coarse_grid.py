"""Print how much time a coarse first grid of points saves, and its effect on masks.

    python benchmarks/coarse_grid.py results/mobile_sam/distill_then_finetune-demo

Scenes like those that the run was trained on are drawn, and each of their objects counts with the
mask found for it that overlaps it most. Beside the full grid and that after a coarse one, a grid of
half as many points a side is asked: what one could do instead.

Printed of two runs of the demo when its scenes showed shapes, on two x86-64 cores that other
processes used too:

    24 points a side      14.6 s  mean IoU 0.628  found 0.818
    after 6                6.7 s  mean IoU 0.617  found 0.784
    12 points a side       4.2 s  mean IoU 0.623  found 0.795

    24 points a side      16.0 s  mean IoU 0.590  found 0.727
    after 6                8.7 s  mean IoU 0.577  found 0.682
    12 points a side       4.2 s  mean IoU 0.582  found 0.727
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobile_sam import AutomaticOptions, automatic_masks, load_run
from mobile_sam.config.load import load_settings
from mobile_sam.data.masks import encode
from mobile_sam.data.synthetic import scene, scene_of_cells
from mobile_sam.metrics.proposals import pairwise_overlaps
from mobile_sam.models.sam import Sam


def main() -> None:
    """Print a line for each way to ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="directory of a run of the demo")
    parser.add_argument("--points-per-side", type=int, default=24)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--pred-iou-thresh", type=float, default=0.3)
    parser.add_argument("--stability-score-thresh", type=float, default=0.6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_run(args.run)
    scenes = load_settings(args.run / "run.json").synthetic
    draw = scene_of_cells if scenes and scenes.objects == "cells" else scene
    side = args.points_per_side
    kept = {
        "pred_iou_thresh": args.pred_iou_thresh,
        "stability_score_thresh": args.stability_score_thresh,
    }
    for name, options in (
        (f"{side} points a side", AutomaticOptions(side, **kept)),
        (f"after {side // 4}", AutomaticOptions(side, **kept, coarse_points_per_side=side // 4)),
        (f"{side // 2} points a side", AutomaticOptions(side // 2, **kept)),
    ):
        seconds, overlaps = measured(model, options, args.images, draw)
        print(f"{name:20}{seconds:6.1f} s", end="")
        print(f"  mean IoU {overlaps.mean():.3f}  found {(overlaps > 0.5).mean():.3f}", flush=True)


def measured(
    model: Sam, options: AutomaticOptions, images: int, draw: Callable[..., Any]
) -> tuple[float, np.ndarray]:
    """Processor seconds, and the IoU of each object with the best mask."""
    seconds, best = 0.0, []
    for number in range(images):
        pixels, masks = draw(model.img_size, np.random.default_rng(1000 + number))
        began = time.process_time()
        found = [mask.code for mask in automatic_masks(model, pixels, options)]
        seconds += time.process_time() - began
        truths = [encode(mask) for mask in masks]
        overlaps = pairwise_overlaps(truths, found, pixels.shape[:2])  # (found, truths)
        best.append(overlaps.max(0) if found else np.zeros(len(truths)))
    return seconds, np.concatenate(best)


if __name__ == "__main__":
    main()
