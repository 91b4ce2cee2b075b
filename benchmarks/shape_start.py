"""Print how well a random decoder that has learned shapes segments nuclei by box, without images.

    python benchmarks/shape_start.py [--data ../shared/data/nuclei/val] [--steps 1250 2500 3750]
        [--plain]

Runs with `checkpoint: "shapes"` start so (mobile_sam/training/shapes.py). Each number of
steps is a training of its own, of `demo_teacher` at 256 px by default. `--plain` leaves the keys of
cross-attentions as they are.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import to_original
from mobile_sam.training.shapes import learn_shapes, match_positions


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
        learn_shapes(model, steps, seed=0, objects=args.objects)
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
