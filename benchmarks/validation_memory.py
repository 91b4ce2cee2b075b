"""Print the peak memory of validation, by number of images.

    python benchmarks/validation_memory.py [--images 500 5000] [--protocols box point]

A randomly initialised `tiny_sam` is measured on copies of synthetic scenes of 64 pixels, each
number of images in a process of its own, of which the largest resident size is shown, with Python
and torch in it.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

from mobile_sam.config.sections import Protocol
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.evaluation.options import EvaluationOptions
from mobile_sam.evaluation.runner import measure_images
from mobile_sam.evaluation.tables import write_table
from mobile_sam.models.build import build_sam_model

SCENES = 50


def main() -> None:
    """Print a line for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument(
        "--protocols", nargs="+", default=["box", "point"], choices=get_args(Protocol)
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        validate(args.one, tuple(args.protocols))
        return
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, by {', '.join(args.protocols)}")
    with tempfile.TemporaryDirectory() as directory:
        write_scenes(Path(directory) / "scenes", SCENES, 64, seed=0)
        for count in args.images:
            target = Path(directory) / str(count)
            copies(Path(directory) / "scenes", count, target)
            command = [sys.executable, __file__, "--one", target, "--protocols", *args.protocols]
            subprocess.run(command, check=True)


def copies(scenes: Path, count: int, target: Path) -> None:
    """Index so many copies of the scenes in `target`."""
    for number in range(count):
        name = f"scene_{number % SCENES:05d}"
        for what, source in (("image", f"{name}.png"), ("mask", name)):
            place = target / what / f"{number:06d}{Path(source).suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(scenes / what / source)
    places = {"val": (target / "image", target / "mask")}
    index_dataset(places, target / "index.parquet", num_workers=os.cpu_count() or 1)


def validate(target: Path, protocols: tuple[Protocol, ...]) -> None:
    """Measure all images of an index, and print what it took."""
    index = Index(target / "index.parquet", "val")
    how = EvaluationOptions(0.0, (0.0,), protocols)
    began = time.monotonic()
    rows = measure_images(
        build_sam_model("tiny_sam", 64).eval(), index, range(len(index)), how, "tiny_sam"
    )
    write_table(target / "table.parquet", rows, {"thresholds": how.thresholds})
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    size = (target / "table.parquet").stat().st_size / 2**20
    print(
        f"{len(index):6d} images  {peak:6.0f} MiB  {seconds:5.0f} s  table {size:.1f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
