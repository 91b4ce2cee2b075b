"""Print the throughput of a whole extraction against that of the bare encoder, in one run.

    python benchmarks/extraction.py [--teacher vit_b] [--img-size 512] [--images 16]

The extraction reads, resizes, encodes and writes images of 1024x1024 pixels; the bare encoder
gets the same batches from memory. Both by turns, with one teacher, random weights, loaded before.
"""

import argparse
import logging
import os
import platform
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.extraction import compute
from mobile_sam.extraction.compute import extract_features, load_batches
from mobile_sam.extraction.passes import batch_size, teacher_pass
from mobile_sam.extraction.plan import plan_extraction
from mobile_sam.features import arrays
from mobile_sam.features.identity import identity
from mobile_sam.models.student_teacher import load_teacher
from mobile_sam.paths import RunPaths


def prepare(directory: Path, args: argparse.Namespace) -> RunConfig:
    """A run with an index of `args.images` training images."""
    for split, count in (("train", args.images), ("val", 1)):
        write_scenes(directory / split, count, 1024, seed=0)
    places = {
        f"{split}_{short}_dir": str(directory / split / name)
        for split in ("train", "val")
        for short, name in (("img", "image"), ("mask", "mask"))
    }
    config = RunConfig(
        run_name="bench",
        output_dir=str(directory / "results"),
        model_type="vit_t",
        teacher_checkpoint="random",
        teacher_model_type=args.teacher,
        img_size=args.img_size,
        use_distill=True,
        num_workers=args.num_workers,
        **places,
    )
    paths = RunPaths(config)
    index_dataset(paths.sources, paths.index)
    return config


def bare_seconds(encoder: Any, batches: list[torch.Tensor], config: RunConfig) -> float:
    """Return the seconds of the encoder alone."""
    began = time.perf_counter()
    for batch in batches:
        teacher_pass(encoder, batch, config.distill_levels)
    if batches[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def extraction_seconds(config: RunConfig) -> float:
    """Return the seconds of a whole extraction into a new store."""
    shutil.rmtree(RunPaths(config).features, ignore_errors=True)
    plan_extraction(config)
    began = time.perf_counter()
    extract_features(config)
    return time.perf_counter() - began


def main() -> None:
    """Print images per second of both, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="vit_b")
    parser.add_argument("--img-size", type=int, default=512)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    # Four shards, so that writing can overlap with computing.
    arrays.IMAGES_PER_SHARD = max(1, args.images // 4)
    with tempfile.TemporaryDirectory() as directory:
        config = prepare(Path(directory), args)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        teacher = load_teacher(config).to(device)
        compute.load_teacher = lambda config: teacher
        encoder = teacher.image_encoder
        look = partial(teacher_pass, encoder, levels=config.distill_levels)
        size = batch_size(encoder, look, config.img_size, device)
        size = min(size, arrays.IMAGES_PER_SHARD)
        order = list(range(args.images))
        positions = [order[i : i + size] for i in range(0, args.images, size)]
        index = Index(RunPaths(config).index, "train")
        frames = load_batches(index, identity(config), positions, config.num_workers, device)
        batches = [batch.on(device)[:, 0] for batch in frames]
        bare_seconds(teacher.image_encoder, batches[:1], config)  # warm up
        found = [
            (bare_seconds(teacher.image_encoder, batches, config), extraction_seconds(config))
            for _ in range(args.rounds)
        ]
    bare, whole = (args.images / np.array(found)).T
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, {device}")
    print(
        f"{args.teacher}, {args.img_size} px, {args.images} images, batches of {size}, "
        f"{args.threads} threads, {args.num_workers} workers, {args.rounds} rounds by turns"
    )
    print(f"bare encoder      {np.median(bare):8.3f} img/s  {np.round(bare, 3).tolist()}")
    print(f"whole extraction  {np.median(whole):8.3f} img/s  {np.round(whole, 3).tolist()}")
    print(f"ratio             {np.median(whole) / np.median(bare):8.3f}")


if __name__ == "__main__":
    main()
