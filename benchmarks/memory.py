"""Prints the peak memory of a training step with many objects in one image.

    python benchmarks/memory.py [--objects 4 50 200] [--prompts-per-pass N] [--recompute-encoder]

A step of a randomly initialised `vit_t` with AdamW, forward, backward and update, on one image with
so many boxes and points: each in a process of its own, of which the largest resident size is shown,
with Python and torch in it.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys

import torch

from mobile_sam.config import RunConfig
from mobile_sam.data.dataset import Sample
from mobile_sam.models.build import build_sam_model
from mobile_sam.options import LossWeights
from mobile_sam.training.allocation import keep_freed_memory
from mobile_sam.training.distillation import Distiller
from mobile_sam.training.learner import Learner
from mobile_sam.training.objective import Objective, weighted
from mobile_sam.training.recompute import recompute_encoder

DEFAULT = RunConfig.model_fields["prompts_per_pass"].default


def main() -> None:
    """Print a line for each number of objects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[4, 50, 200])
    parser.add_argument("--img-size", type=int, default=1024)
    parser.add_argument("--prompts-per-pass", type=int, default=DEFAULT)
    parser.add_argument("--recompute-encoder", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        step(args.one, args)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{args.one:5d} objects  {peak:6.2f} GiB", flush=True)
        return
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {args.img_size} px, float32")
    again = "computed again" if args.recompute_encoder else "kept"
    print(f"{args.prompts_per_pass} prompts a pass (the default is {DEFAULT}), encoder {again}")
    same = [f"--img-size={args.img_size}", f"--prompts-per-pass={args.prompts_per_pass}"]
    same += ["--recompute-encoder"] if args.recompute_encoder else []
    for objects in args.objects:
        subprocess.run([sys.executable, __file__, *same, f"--one={objects}"], check=True)


def step(objects: int, args: argparse.Namespace) -> None:
    """One step, half of the prompts boxes and half single points."""
    if not args.recompute_encoder:  # as training does
        keep_freed_memory()
    goal = Objective(weighted(LossWeights()), {}, {}, prompts_per_pass=args.prompts_per_pass)
    student = build_sam_model("vit_t", args.img_size)
    if args.recompute_encoder:
        recompute_encoder(student.image_encoder)
    learner = Learner(student, Distiller(256, {}, seed=0), goal).train()
    optimizer = torch.optim.AdamW(learner.parameters())
    learner(batch(objects, args.img_size))["loss"].sum().backward()
    optimizer.step()


def batch(objects: int, img_size: int) -> Sample:
    """One image of noise, with squares all over it."""
    rng = torch.Generator().manual_seed(0)
    corners = torch.randint(0, img_size - 40, (objects, 2), generator=rng)
    masks = torch.zeros(1, objects, img_size, img_size, dtype=torch.bool)
    for mask, (x, y) in zip(masks[0], corners.tolist(), strict=True):
        mask[y : y + 40, x : x + 40] = True
    points = torch.stack([corners, corners + 40], dim=1).float()
    labels = torch.tensor([2, 3]).repeat(objects, 1)
    points[::2, 0] += 20
    labels[::2] = torch.tensor([1, -1])
    return Sample(
        position=torch.zeros(1),
        image=torch.randn(1, 3, img_size, img_size, generator=rng),
        valid=torch.ones(1, img_size, img_size, dtype=torch.bool),
        masks=masks,
        points=points[None],
        labels=labels[None],
        teacher={},
        labelled=torch.tensor([True]),
    )


if __name__ == "__main__":
    main()
