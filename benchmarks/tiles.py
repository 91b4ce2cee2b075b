"""Print how fast samples of tiles are read from a slide, and from files of the same tiles.

    python benchmarks/tiles.py [--side 20000] [--tile 1024] [--samples 100]

The slide is a TIFF in compressed blocks of 256 pixels, with noise and an ellipse every 150 pixels;
the files are PNGs. Both are read in the same random order, 10 samples at a time in turns, by one
process; the times are CPU times. The goal is 0.9 of the speed of files. Then a process of its own
reads samples of a slide of 2,000 pixels, and another one those of this slide: peaks of memory.
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

from mobile_sam.config.sections import Augment, Data, Prompts, Tile
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.splits import Sources
from mobile_sam.data.index.table import Index, read_indexed_image
from mobile_sam.data.masks import ellipse_points
from mobile_sam.data.sampling.dataset import TrainingSet

BLOCK, PITCH, TURN = 256, 150, 10


def main() -> None:
    """Print the ratio of both speeds, and the memory at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=100)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        small = indexed(Path(name) / "small", 2_000, args.tile)
        began = time.process_time()
        slide = indexed(Path(name) / "slide", args.side, args.tile)
        seconds = time.process_time() - began
        files = cut(slide, Path(name) / "files", args.tile)
        ratio, rate = compare(slide, files, args.tile, args.samples)
        peaks = [peak(path, args.tile, args.samples) for path in (small, slide)]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {args.side} pixels, tiles of {args.tile}")
    print(f"drawn and indexed in {seconds:.0f} s of CPU time")
    print(f"{rate:.1f} samples/s, {ratio:.2f} of the speed of files (goal 0.9)")
    print(f"memory: {peaks[0]:.0f} MiB at 2000 pixels, {peaks[1]:.0f} MiB at {args.side}")


def indexed(directory: Path, side: int, tile: int) -> Path:
    """Draw a slide with a COCO file, and return its index."""
    (directory / "image").mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = rng.integers(80, 120, (side // 10, side // 10, 3), dtype=np.uint8)
    pixels = np.tile(noise, (10, 10, 1))
    centres = range(PITCH // 2, side, PITCH)
    shapes = [ellipse_points(x, y, 20, 30).clip(0, side - 1) for y in centres for x in centres]
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "segmentation": [shape.ravel().tolist()]}
        for n, shape in enumerate(shapes)
    ]
    tifffile.imwrite(
        directory / "image" / "slide.tif",
        pixels,
        tile=(BLOCK, BLOCK),
        photometric="rgb",
        compression="zlib",
    )
    image = {"id": 1, "file_name": "slide.tif", "height": side, "width": side}
    content = {"images": [image], "categories": [{"id": 1, "name": "cell"}]}
    annotated = directory / "masks.json"
    annotated.write_text(json.dumps(content | {"annotations": annotations}))
    target, options = directory / "index.parquet", Data(tile=Tile(size=tile, overlap=tile // 8))
    sources: Sources = {"train": (directory / "image", annotated), **validation(directory)}
    index_dataset(sources, target, options)
    return target


def validation(directory: Path) -> Sources:
    """Draw a small image with one object; an index needs a validation image."""
    pixels = np.zeros((64, 64), dtype=np.uint8)
    for name, value in (("image", 100), ("mask", 255)):
        (directory / "val" / name).mkdir(parents=True)
        pixels[20:40, 20:40] = value
        Image.fromarray(pixels).save(directory / "val" / name / "small.png")
    return {"val": (directory / "val" / "image", directory / "val" / "mask")}


def cut(index: Path, directory: Path, tile: int) -> Path:
    """Write the tiles of an index as files, and return their index."""
    for number in range(len(tiles := Index(index, "train"))):
        image = tiles[number]
        target = directory / "image" / f"{number:06}.png"
        masks = directory / "mask" / f"{number:06}.png"
        for path in (target, masks):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(read_indexed_image(image)).save(target)
        labels = np.zeros(image.size, dtype=np.uint16)
        for value, segment in enumerate(image.segments, start=1):
            labels[image.mask(segment)] = value
        Image.fromarray(labels).save(masks)
    own = directory / "index.parquet"
    train = directory / "image", directory / "mask"
    sources: Sources = {"train": train, **validation(directory)}
    index_dataset(sources, own, Data())
    return own


def compare(slide: Path, files: Path, tile: int, samples: int) -> tuple[float, float]:
    """Return the speed of tiles relative to files, and samples per second."""
    sets = [training_set(path, tile) for path in (slide, files)]
    order = np.random.default_rng(0).permutation(len(sets[0]))[:samples]
    seconds = [0.0, 0.0]
    for start in range(0, len(order), TURN):
        for number, dataset in enumerate(sets):
            began = time.process_time()
            for position in order[start : start + TURN].tolist():
                dataset[position]
            seconds[number] += time.process_time() - began
    return seconds[1] / seconds[0], len(order) / seconds[0]


def training_set(index: Path, tile: int) -> TrainingSet:
    """Return samples of an index, at the resolution of the tiles."""
    return TrainingSet(Index(index, "train"), tile, 16, Prompts(), Augment(), seed=0)


def peak(index: Path, tile: int, samples: int) -> float:
    """Return the peak of memory in MiB of a process that reads samples."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (index, tile, samples))


def _peak(index: Path, tile: int, samples: int) -> float:
    torch.set_num_threads(1)
    dataset = training_set(index, tile)
    for number in range(samples):
        dataset[number % len(dataset)]
    # Not `ru_maxrss`, which begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
