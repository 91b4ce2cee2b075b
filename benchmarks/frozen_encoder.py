"""Print how much faster epochs are when a frozen encoder's embeddings are kept, in one run.

    python benchmarks/frozen_encoder.py [--data ../shared/data/coco8] [--img-size 1024]

Trains the decoder of a randomly initialised `vit_t`, once with `cache_embeddings` and once without,
and compares the seconds of their epochs; the first epoch with the cache includes filling it.
"""

import argparse
import logging
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.build import index_dataset
from mobile_sam.paths import RunPaths
from mobile_sam.training.run import train_run

EPOCHS = 4


def main() -> None:
    """Print seconds of epochs and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/coco8"))
    parser.add_argument("--img-size", type=int, default=1024)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {threads} threads, {args.img_size} px")
    for objects in (1, 4):
        with tempfile.TemporaryDirectory() as directory:
            found = {cached: epochs(args, directory, objects, cached) for cached in (True, False)}
        (first, later), (_, without) = found[True], found[False]
        print(f"objects_per_image {objects}: seconds of an epoch")
        print(f"  first, with filling the cache  {first:7.2f}")
        print(f"  later, with the cache          {later:7.2f}  {first / later:5.1f}x faster")
        print(f"  without a cache                {without:7.2f}  {without / later:5.1f}x slower")


def epochs(
    args: argparse.Namespace, directory: str, objects: int, cached: bool
) -> tuple[float, float]:
    """Seconds of the first epoch with what precedes it, and the median of those after it."""
    config = prepare(args, directory, objects, cached)
    began = time.perf_counter()
    train_run(config)
    whole = time.perf_counter() - began
    (stage,) = normalise(config)
    seconds = pd.read_csv(RunPaths(config).metrics(stage))["seconds"]
    return whole - seconds[1:].sum(), float(seconds[1:].median())


def prepare(args: argparse.Namespace, directory: str, objects: int, cached: bool) -> RunConfig:
    """A run of the decoder alone, with its index."""
    settings: dict[str, Any] = {
        f"{split}_{short}_dir": str(args.data / split / name)
        for split in ("train", "val")
        for short, name in (("img", "image"), ("mask", "mask"))
    }
    settings |= {
        "run_name": f"cached-{cached}",
        "output_dir": directory,
        "checkpoint": None,
        "img_size": args.img_size,
        "num_epochs": EPOCHS,
        "batch_size": 1,
        "objects_per_image": objects,
        "val_images": 0,
        "freeze": {"image_encoder": True},
        "cache_embeddings": cached,
    }
    config = parse_config(settings, "benchmark")
    paths = RunPaths(config)
    index_dataset(paths.sources, paths.index)
    return config


if __name__ == "__main__":
    main()
