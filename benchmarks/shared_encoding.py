"""Print validated objects/s with one encoder pass per image and with one per object.

    python benchmarks/shared_encoding.py [--data ../shared/data/coco8] [--img-size 1024]
                                         [--objects 16] [--protocols box point]

A randomly initialised `vit_t` is measured on the same image, in turns: all objects prompted
together on one embedding, as `validate` does it, and each object anew, as if it were alone in its
image: read, encoded, decoded and compared. Both must give the same rows. The ratio is the median of
those of the pairs.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, get_args

import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import Protocol
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index, IndexedImage
from mobile_sam.evaluation.options import EvaluationOptions
from mobile_sam.evaluation.runner import measure_images
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam

ROUNDING = 0.01  # of IoU: random weights give logits so near 0 that pixels change sides


def main() -> None:
    """Print objects/s of both ways, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/coco8"))
    parser.add_argument("--img-size", type=int, default=1024)
    parser.add_argument("--objects", type=int, default=16, help="of the image")
    parser.add_argument(
        "--protocols", nargs="+", default=["box", "point"], choices=get_args(Protocol)
    )
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, {threads} threads, {device.type}", end=", "
    )
    print(f"{args.img_size} px; {args.objects} objects an image, by {', '.join(args.protocols)}")
    compare(
        build_sam_model("vit_t", args.img_size).eval().to(device),
        image_with(args.objects, args.data),
        tuple(args.protocols),
        args.pairs,
    )


def compare(model: Sam, image: IndexedImage, protocols: tuple[Protocol, ...], pairs: int) -> None:
    """Time both ways in turns; the first pair is not counted."""
    alone = [replace(image, segments=(segment,)) for segment in image.segments]
    found: list[tuple[float, float]] = []
    for _ in range(pairs + 1):
        began = time.perf_counter()
        together = validated(model, [image], protocols)
        between = time.perf_counter()
        each = validated(model, alone, protocols)
        found.append((between - began, time.perf_counter() - between))
        check_same(together, each)
    of_together, of_each = (
        len(alone) / statistics.median(seconds) for seconds in zip(*found[1:], strict=True)
    )
    ratio = statistics.median(slow / fast for fast, slow in found[1:])
    print(f"  one encoder pass an object  {of_each:8.2f} objects/s")
    print(f"  one encoder pass an image   {of_together:8.2f} objects/s  {ratio:5.2f}x faster")


def validated(
    model: Sam, images: Sequence[IndexedImage], protocols: tuple[Protocol, ...]
) -> list[dict[str, Any]]:
    """Return the rows that `validate` writes for some images, given in place of an `Index`."""
    thresholds = RunConfig.model_fields["thresholds"].default
    how = EvaluationOptions(0.0, thresholds, protocols)
    return list(measure_images(model, images, range(len(images)), how, "start"))


def image_with(objects: int, data: Path) -> IndexedImage:
    """The first image of the validation images, with so many objects: its own, again and again."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index.parquet"
        index_dataset({s: (data / s / "image", data / s / "mask") for s in ("train", "val")}, path)
        image = Index(path, "val")[0]
    segments = enumerate(islice(cycle(image.segments), objects))
    return replace(
        image, segments=tuple(replace(segment, segment_id=str(n)) for n, segment in segments)
    )


def check_same(together: list[dict[str, Any]], each: list[dict[str, Any]]) -> None:
    """Both ways must have measured the same. Raises ValueError."""
    first, second = (
        {(row["prompt"], row["segment_id"]): row["iou"] for row in rows}
        for rows in (together, each)
    )
    if first.keys() != second.keys():
        raise ValueError("the two ways wrote rows of other objects")
    apart = max(abs(first[key] - second[key]) for key in first)
    if apart > ROUNDING:
        raise ValueError(f"the two ways differ by {apart:.2g} of IoU")


if __name__ == "__main__":
    main()
