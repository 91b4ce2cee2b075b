"""Peak memory of writing the masks of an image, as `segment` does, by the number of masks.

    python benchmarks/segment_memory.py
    python benchmarks/segment_memory.py --side 2000 --masks 10 300

Each measurement is a process of its own, whose peak is that of the system. Made-up discs stand in
for a model's masks, so that only the writing is measured. The last column is what all masks would
take as arrays.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mobile_sam.data.masks import EncodedMasks, encode
from mobile_sam.inference.drawing import overlay, write_jpeg, write_label_map


def discs(side: int, count: int) -> EncodedMasks:
    """Discs of many sizes all over a square image, some of which overlap."""
    rng = np.random.default_rng(0)
    codes = []
    canvas = np.zeros((side, side), dtype=bool)
    for x, y in rng.integers(0, side, (count, 2)):
        reach = int(rng.uniform(0.005, 0.05) * side)
        rows, columns = slice(max(0, y - reach), y + reach), slice(max(0, x - reach), x + reach)
        places = np.ogrid[
            rows.start : min(side, rows.stop), columns.start : min(side, columns.stop)
        ]
        canvas[rows, columns] = (places[0] - y) ** 2 + (places[1] - x) ** 2 < reach**2
        codes.append(encode(canvas))
        canvas[rows, columns] = False
    return EncodedMasks(codes, (side, side))


def write(side: int, count: int) -> None:
    masks = discs(side, count)
    image = np.full((side, side, 3), 128, dtype=np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        write_label_map(Path(directory) / "labels.png", masks)
        write_jpeg(Path(directory) / "overlay.jpg", overlay(image, masks))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    seconds = time.monotonic() - began
    arrays = count * side**2 / 2**20
    print(f"| {side} | {count} | {before:.0f} | {peak:.0f} | {seconds:.1f} | {arrays:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10_000, help="pixels")
    parser.add_argument("--masks", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--alone", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.alone:
        write(args.side, args.masks[0])
        return
    print("| side, px | masks | MiB before | MiB at most | s | MiB of all masks |")
    print("|---|---|---|---|---|---|")
    for count in args.masks:
        command = [sys.executable, __file__, "--alone", "--side", args.side, "--masks", count]
        subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    main()
