"""Print the peak memory of a training step, and of the validation after an epoch, by objects.

    python benchmarks/memory.py [--objects 4 32 200] [--images 8] [--decoder-chunk-size N]
        [--recompute-encoder] [--precision bf16-mixed] [--mask-loss-points N] [--resident]

A step of a randomly initialised `vit_t` with AdamW, forward, backward and update, on a batch of
images with so many objects each, half of them prompted by boxes and half by single points; and the
validation of such an image, each object by its box and by a point.

Tensors are fake ones, of which nothing is computed: the peak is that of the storages that are
alive, weights included. With `--mask-loss-points`, the step is also measured with losses at so many
points of each mask; the last column is the ratio of both. With `--resident` the step is really
made, for one image, each number of objects in a process of its own, of which the largest resident
size is shown, with Python and torch in it.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mobile_sam.config.losses import LossWeights
from mobile_sam.config.run import RunConfig
from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.models.build import build_sam_model
from mobile_sam.training.activation_checkpointing import recompute_encoder
from mobile_sam.training.cpu import keep_freed_memory
from mobile_sam.training.epoch_validation import image_iou
from mobile_sam.training.memory_meter import MemoryMeter
from mobile_sam.training.step import Objective, TrainingModule
from mobile_sam.training.teacher import FeatureProjections

DEFAULT = RunConfig.model_fields["decoder_chunk_size"].default


def main() -> None:
    """Print a line for each number of objects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[4, 32, 200])
    parser.add_argument("--images", type=int, default=8, help="images of a batch")
    parser.add_argument("--img-size", type=int, default=1024)
    parser.add_argument("--decoder-chunk-size", type=int, default=DEFAULT)
    parser.add_argument("--recompute-encoder", action="store_true")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--mask-loss-points", type=int)
    parser.add_argument("--resident", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        resident(args.one, args)
        return
    again = "computed again" if args.recompute_encoder else "kept"
    print(f"{args.decoder_chunk_size} prompts a pass (the default is {DEFAULT}), encoder {again}")
    if args.resident:
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, {args.img_size} px, float32, 1 image")
        same = [f"--img-size={args.img_size}", f"--decoder-chunk-size={args.decoder_chunk_size}"]
        same += ["--recompute-encoder"] if args.recompute_encoder else []
        same += [f"--mask-loss-points={args.mask_loss_points}"] if args.mask_loss_points else []
        for objects in args.objects:
            subprocess.run([sys.executable, __file__, *same, f"--one={objects}"], check=True)
        return
    print(f"fake tensors, {args.img_size} px, {args.precision}, {args.images} images a batch")
    points = args.mask_loss_points
    columns = f"  with {points} points  ratio" if points else ""
    print(f"objects  training  validation   GiB{columns}")
    for objects in args.objects:
        training, validation = training_peak(objects, args), validation_peak(objects, args)
        line = f"{objects:7d}  {training / 2**30:8.2f}  {validation / 2**30:10.2f}"
        if points:
            at_points = training_peak(objects, args, points)
            line += f"       {at_points / 2**30:{len(columns) - 9}.2f}  {at_points / training:5.2f}"
        print(line, flush=True)


def training_peak(objects: int, args: argparse.Namespace, points: int | None = None) -> int:
    """Bytes of a step, all of it on one device."""
    with torch.device("meta"):
        module = new_training_module(args, points)
    # Autograd refuses fake tensors on `cuda` where there is none.
    with FakeTensorMode(allow_non_fake_inputs=True), MemoryMeter() as meter:
        module.to_empty(device="cpu").train()
        step(module, batch(args.images, objects, args.img_size), args.precision)
    return meter.peak


def validation_peak(objects: int, args: argparse.Namespace) -> int:
    """Bytes on a GPU, to which images are moved; float32 in all precisions."""
    with torch.device("meta"):
        student = new_training_module(args).student.eval()
    with FakeTensorMode(allow_non_fake_inputs=True), MemoryMeter("cuda") as meter, torch.no_grad():
        student.to_empty(device="cuda")
        image = batch(1, objects, args.img_size)
        prompts = {
            "points": image.points.repeat(1, 2, 1, 1),
            "labels": image.labels.repeat(1, 2, 1),
        }
        image_iou(student, image._replace(**prompts), student.device, args.decoder_chunk_size)
    return meter.peak


def resident(objects: int, args: argparse.Namespace) -> None:
    """Make a step in this process, and print its largest resident size."""
    if not args.recompute_encoder:  # as training does
        keep_freed_memory()
    module = new_training_module(args, args.mask_loss_points)
    step(module.train(), batch(1, objects, args.img_size), "32-true")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{objects:5d} objects  {peak:6.2f} GiB", flush=True)


def new_training_module(args: argparse.Namespace, points: int | None = None) -> TrainingModule:
    """A student with the usual losses."""
    goal = Objective(
        *(LossWeights().computed, {}, {}),
        decoder_chunk_size=args.decoder_chunk_size,
        mask_loss_points=points,
    )
    student = build_sam_model("vit_t", args.img_size)
    if args.recompute_encoder:
        recompute_encoder(student.image_encoder)
    return TrainingModule(student, FeatureProjections(256, {}, seed=0), goal)


def step(module: TrainingModule, images: Sample, precision: str) -> None:
    """One step."""
    optimizer = torch.optim.AdamW(module.parameters())
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        losses = module(images)
    losses["loss"].sum().backward()
    optimizer.step()


def batch(images: int, objects: int, img_size: int) -> Sample:
    """Images of noise, with squares all over them; half of the prompts are boxes, half points."""
    rng = torch.Generator().manual_seed(0)
    corners = torch.randint(0, img_size - 40, (objects, 2), generator=rng)
    y, x = torch.arange(img_size)[:, None], torch.arange(img_size)
    inside_x, inside_y = (
        (places >= low[:, None, None]) & (places < low[:, None, None] + 40)
        for places, low in zip((x, y), corners.unbind(1), strict=True)
    )
    points = torch.stack([corners, corners + 40], dim=1).float()
    labels = torch.tensor([2, 3]).repeat(objects, 1)
    points[::2, 0] += 20
    labels[::2] = torch.tensor([1, -1])
    return Sample(
        position=torch.zeros(images),
        image=torch.randint(256, (images, 3, img_size, img_size), generator=rng, dtype=torch.uint8),
        size=torch.full((images, 2), img_size),
        valid=torch.ones(images, img_size, img_size, dtype=torch.bool),
        masks=(inside_x & inside_y).repeat(images, 1, 1, 1),
        points=points.repeat(images, 1, 1, 1),
        labels=labels.repeat(images, 1, 1),
        teacher={},
        seed=torch.arange(images),
        labelled=torch.ones(images, dtype=torch.bool),
    )


if __name__ == "__main__":
    main()
