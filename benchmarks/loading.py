"""Prints a training step with the real loader against one on batches in memory, in one run.

    python benchmarks/loading.py [--data ../shared/data/coco8] [--img-size 1024] [--num-workers 0]

Trains a randomly initialised `vit_t` with stored features of another one. In every other epoch the
batches of the epoch before come from memory: the same numbers, without reading images, masks and
features. Also prints what the parts of a sample take, which says what a cache of images could save.
"""

import argparse
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mobile_sam.config import RunConfig, parse_config
from mobile_sam.data.dataset import Sample
from mobile_sam.data.images import read_image
from mobile_sam.data.indexing import index_dataset
from mobile_sam.extraction.compute import extract_features
from mobile_sam.extraction.plan import finish_extraction, plan_extraction
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import normalise
from mobile_sam.training.run import train_run
from mobile_sam.training.stage import StageTraining
from mobile_sam.training.start import training_set


def main() -> None:
    """Print seconds of both kinds of epochs, their ratio, and the parts of a sample."""
    args = arguments(__doc__, pairs=3)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as directory:
        config = prepare(args, directory)
        reading_by_turns()
        train_run(config)
        (stage,) = normalise(config)
        seconds = pd.read_csv(RunPaths(config).metrics(stage))["seconds"].to_numpy()
        steps = -(-len(training_set(config, stage)) // config.batch_size)
        real, memory = seconds[2::2] / steps, seconds[3::2] / steps
        parts = parts_of_a_sample(config)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads")
    print(
        f"{args.img_size} px, {args.num_workers} workers, {steps} steps an epoch, seconds a step:"
    )
    print(f"  real loader  {real.mean():6.3f}  {real.round(3).tolist()}")
    print(f"  in memory    {memory.mean():6.3f}  {memory.round(3).tolist()}")
    print(f"  ratio        {real.mean() / memory.mean():6.3f}")
    print("  of a sample: " + ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in parts.items()))


def arguments(description: str | None, pairs: int) -> argparse.Namespace:
    """What the command line says of a run to prepare; `pairs` is a default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/coco8"))
    parser.add_argument("--img-size", type=int, default=1024)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=pairs, help="of epochs, after two to warm up")
    return parser.parse_args()


def prepare(args: argparse.Namespace, directory: str) -> RunConfig:
    """A run with its index and features."""
    settings: dict[str, Any] = {
        f"{split}_{short}_dir": str(args.data / split / name)
        for split in ("train", "val")
        for short, name in (("img", "image"), ("mask", "mask"))
    }
    settings |= {
        "run_name": "loading",
        "output_dir": directory,
        "checkpoint": None,
        "teacher_checkpoint": "random",
        "teacher_model_type": "vit_t",
        "use_distill": True,
        "img_size": args.img_size,
        "num_epochs": 2 + 2 * args.pairs,
        "batch_size": 1,
        "val_images": 0,
        "num_workers": args.num_workers,
    }
    config = parse_config(settings, "benchmark")
    paths = RunPaths(config)
    index_dataset(paths.sources, paths.index)
    plan_extraction(config)
    extract_features(config)
    finish_extraction(config)
    return config


def reading_by_turns() -> None:
    """Make every other epoch repeat the batches of the one before from memory."""
    original = StageTraining._loader
    kept: list[Sample] = []

    def by_turns(self: StageTraining) -> Iterator[Sample]:
        if self.progress.epoch % 2:
            yield from kept
            return
        kept.clear()
        for batch in original(self):
            kept.append(batch)
            yield batch

    StageTraining._loader = by_turns  # type: ignore[method-assign]


def parts_of_a_sample(config: RunConfig) -> dict[str, float]:
    """Seconds of a whole sample, and of decoding its image and reading its features alone."""
    samples = training_set(config, normalise(config)[0])
    records = [samples.record(i) for i in range(len(samples))]
    found = {}
    for name, work in (
        ("whole", lambda i: samples[i]),
        ("decoding the image", lambda i: read_image(records[i].path)),
        ("reading features", lambda i: samples.read_features(records[i], "identity")),
    ):
        began = time.perf_counter()
        for i in range(len(records)):
            work(i)
        found[name] = (time.perf_counter() - began) / len(records)
    return found


if __name__ == "__main__":
    main()
