"""Read label maps with many objects: the time grows with the pixels, not with the objects.

    python benchmarks/label_maps.py --labels 4096 --side 2048

prints the seconds for run-length codes of all labels; for reading a PNG of them whole, checks and
all; for one pass over the image for each label, which is measured on a few of them and multiplied;
its ratio to the first; and whether the codes are equal.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.registry import read_annotations
from mobile_sam.data.images import check_image
from mobile_sam.data.masks import encode, encode_labels
from mobile_sam.data.records import find_records

_MEASURED = 32  # labels that are encoded one by one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=int, nargs="+", default=[64, 1024, 4096, 16384])
    parser.add_argument("--side", type=int, default=2048, help="pixels; default: %(default)s")
    args = parser.parse_args()
    print(f"{'labels':>8}{'codes':>8}{'file':>8}{'one by one':>12}{'ratio':>8}  equal codes")
    for count in args.labels:
        labels = discs(args.side, count)
        seconds, codes = timed(lambda labels=labels: encode_labels(labels))
        whole_file = read_file(labels)
        some = codes[:: max(len(codes) // _MEASURED, 1)]
        each, expected = timed(lambda: [encode(labels == value) for value, _ in some])  # noqa: B023
        whole = each / len(some) * len(codes)
        equal = [code for _, code in some] == expected
        times = f"{seconds:>8.2f}{whole_file:>8.2f}{whole:>12.1f}{whole / seconds:>8.0f}"
        print(f"{len(codes):>8}{times}  {equal}")


def read_file(labels: np.ndarray) -> float:
    """Seconds to read a label map from a PNG, with all checks."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for place, pixels in (("images", labels.astype(np.uint8)), ("masks", labels)):
            (directory / place).mkdir()
            Image.fromarray(pixels).save(directory / place / "a.png")
        record = find_records(directory / "images", directory / "masks").records[0]
        facts = check_image(record.image_path)
        seconds, found = timed(lambda: read_annotations(record, facts, Data()))
    if found.problems:
        raise ValueError(found.problems)
    return seconds


def discs(side: int, count: int) -> np.ndarray:
    """A label map (side, side) of uint16 with a grid of discs, numbered from 1 on."""
    across = round(count**0.5)
    cell = side // across
    y, x = np.mgrid[:side, :side]
    number = (y // cell) * across + x // cell + 1
    inside = (y % cell - cell / 2) ** 2 + (x % cell - cell / 2) ** 2 < (0.45 * cell) ** 2
    inside &= (y < cell * across) & (x < cell * across)
    return np.where(inside, number, 0).astype(np.uint16)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, the least of three, and what it gives."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - began)
    return min(seconds), found


if __name__ == "__main__":
    main()
