"""Print training objects/s with one encoder pass per image and with one per object.

    python benchmarks/training.py [--data ../shared/data/coco8] [--img-size 1024] [--objects 3 16]

A step of a randomly initialised `vit_t` (forward and backward, box prompts) on the same images, in
turns: all objects of an image on one embedding, and each object as a batch of its own, as the
published fine-tuning code does it. The arithmetic bound is what sharing can give when nothing else
costs time: (E + D) / (E / n + D), with the measured seconds of an encoder pass E and of an object's
decoding D, for n objects an image.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mobile_sam.config.losses import LossWeights
from mobile_sam.config.sections import Augment, Prompts
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.data.sampling.dataset import Sample, TrainingSet, collate
from mobile_sam.models.build import build_sam_model
from mobile_sam.training.cpu import keep_freed_memory
from mobile_sam.training.step import Objective, TrainingModule, encode
from mobile_sam.training.teacher import FeatureProjections


def main() -> None:
    """Print seconds an object of both ways, their ratio and the bound, for each `--objects`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/coco8"))
    parser.add_argument("--img-size", type=int, default=1024)
    parser.add_argument("--objects", type=int, nargs="+", default=[3, 16], help="of an image")
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()  # as training does
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {threads} threads, {args.img_size} px")
    module = TrainingModule(
        build_sam_model("vit_t", args.img_size),
        FeatureProjections(256, {}, seed=0),
        Objective(LossWeights().computed, {}, {}),
    )
    for objects in args.objects:
        compare(module.train(), batch(args, objects), objects, args.pairs)


def batch(args: argparse.Namespace, objects: int) -> Sample:
    """One image with so many boxes."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index.parquet"
        sources = {s: (args.data / s / "image", args.data / s / "mask") for s in ("train", "val")}
        index_dataset(sources, path)
        boxes = Prompts(box=1, point=0)
        samples = TrainingSet(Index(path, "train"), args.img_size, objects, boxes, Augment(), 0)
        return collate([samples[0]])


def compare(module: TrainingModule, sample: Sample, objects: int, pairs: int) -> None:
    """Time both ways in turns, and both parts of a step."""
    singles = [one(sample, i) for i in range(objects)]
    with torch.no_grad():
        embedding = encode(module.student, sample)
    encoded = sample._replace(embedding=embedding)

    def together() -> None:
        step(module, sample)

    def each() -> None:
        for single in singles:
            step(module, single)

    def encoder() -> None:
        encode(module.student, sample).sum().backward()

    def decoder() -> None:
        step(module, encoded)

    step(module, singles[0])
    found: dict[Callable[[], None], list[float]] = {
        w: [] for w in (together, each, encoder, decoder)
    }
    for _ in range(pairs):
        for work, times in found.items():
            times.append(seconds(work))
    per_image, of_objects, pass_seconds, decoding = map(statistics.median, found.values())
    ratios = [b / a for a, b in zip(found[together], found[each], strict=True)]
    ratio = statistics.median(ratios)
    of_one = decoding / objects
    bound = (pass_seconds + of_one) / (pass_seconds / objects + of_one)
    print(f"{objects} objects an image, seconds an object:")
    print(f"  one encoder pass an object  {of_objects / objects:7.3f}")
    print(f"  one encoder pass an image   {per_image / objects:7.3f}  {ratio:5.2f}x faster")
    print(f"  encoder {pass_seconds:.3f} a pass, decoder and losses {of_one:.3f} an object")
    print(f"  arithmetic bound {bound:.2f}x, reached {ratio / bound:.2f} of it", flush=True)


def one(sample: Sample, i: int) -> Sample:
    """The batch with one of its objects."""
    fields = ("masks", "points", "labels")
    return sample._replace(**{name: getattr(sample, name)[:, i : i + 1] for name in fields})


def step(module: TrainingModule, sample: Sample) -> None:
    """Forward and backward."""
    module(sample)["loss"].sum().backward()


def seconds(work: Callable[[], None]) -> float:
    """Return the seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
