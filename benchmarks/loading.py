"""Print how fast samples are read: a single one, by the loader, and during a waiting step.

    python benchmarks/loading.py [--data ../shared/data/coco8] [--enlarge 1] [--img-size 1024]
        [--num-workers N]

Training samples of `vit_t` with four objects an image and stored features of another one. The rate
of one sample is that of a single process with one thread; the loader's is what comes out of N
processes (by default one for each CPU), once they all work. The step waits 10 ms for each image,
while a thread receives the next batch, as on a GPU; what else an epoch takes is waiting for data.
The goals are 0.9 x N x the first rate, and 5 %. `--enlarge 6` makes photographs of 12 megapixels.
"""

import argparse
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import torch
from lightning_fabric import Fabric
from PIL import Image

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.images import read_image
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.sampling.dataset import Sample, TrainingSet
from mobile_sam.data.transforms import pad_to_frame, resize_image
from mobile_sam.extraction.compute import extract_features
from mobile_sam.extraction.plan import finish_extraction, plan_extraction
from mobile_sam.paths import RunPaths
from mobile_sam.system.cpus import cpus_of_rank
from mobile_sam.training.batches import loaded_batches
from mobile_sam.training.setup import training_set

STEP = 0.01  # seconds an image
AHEAD = 2  # batches that PyTorch lets each process read ahead


def main() -> None:
    """Print both rates and their ratio, the share of waiting, and the parts of a sample."""
    # 3 divides the images of coco8: all processes get batches of one size.
    parser = options(__doc__, num_workers=cpus_of_rank(), batch_size=3)
    parser.add_argument("--enlarge", type=int, default=1, help="times the sides of the images")
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as directory:
        if args.enlarge > 1:
            args.data = enlarged(args.data, args.enlarge, Path(directory) / "data")
        config = prepare(args, directory)
        samples = training_set(config, normalise(config)[0])
        alone = rate_alone(samples, args.seconds)
        loader = rate_of_loader(config, samples, args.seconds)
        first, later = waiting(config, samples, args.seconds)
        parts = parts_of_a_sample(samples, args.seconds)
    processes = args.num_workers
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {args.img_size} px, torch", end=" ")
    print(f"{torch.__version__}, {processes} processes, batches of {config.batch_size}")
    print(f"  one sample alone      {alone:7.1f} img/s")
    print(
        f"  loader alone          {loader:7.1f} img/s, {loader / alone / max(1, processes):.3f}",
        end=" ",
    )
    print(f"of {processes} x one alone (goal 0.9)")
    print(
        f"  step of {1000 * STEP:.0f} ms an image  {later:.1%} of an epoch waits for data", end=" "
    )
    print(f"(goal 5 %); {first:.1%} of the first one, in which the processes start")
    print("  of a sample: " + ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in parts.items()))


def options(description: str | None, num_workers: int, batch_size: int) -> argparse.ArgumentParser:
    """Return the command-line options of a run to prepare, with defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/coco8"))
    parser.add_argument("--img-size", type=int, default=1024)
    parser.add_argument("--num-workers", type=int, default=num_workers)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    return parser


def prepare(args: argparse.Namespace, directory: str, epochs: int = 1) -> RunConfig:
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
        "num_epochs": epochs,
        "batch_size": args.batch_size,
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


def enlarged(data: Path, times: int, target: Path) -> Path:
    """Write a data set with images and masks of so many times the width and height."""
    for path in data.rglob("*.*"):
        copy = target / path.relative_to(data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            size = (times * image.width, times * image.height)
            image.resize(size, Image.Resampling.NEAREST).save(copy)
    return target


def rate_alone(samples: TrainingSet, seconds: float) -> float:
    """Samples a second of this process, which has read each of them once before."""
    for position in range(len(samples)):
        samples[position]
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        samples[len(samples) + done]
        done += 1
    return done / (time.perf_counter() - began)


def batches(config: RunConfig, samples: TrainingSet) -> Iterator[Sample]:
    """Yield the batches of a stage that never ends."""
    return loaded_batches(config, samples, Fabric(accelerator="cpu"), 0, 0, 10**9)


def rate_of_loader(config: RunConfig, samples: TrainingSet, seconds: float) -> float:
    """Samples a second from the loader, after those that were read before anybody asked."""
    source, images = batches(config, samples), 0
    for _ in islice(source, 2 * AHEAD * max(1, int(config.num_workers))):
        pass
    began = time.perf_counter()
    for batch in source:
        images += len(batch.position)
        if time.perf_counter() - began > seconds:
            break
    return images / (time.perf_counter() - began)


def waiting(config: RunConfig, samples: TrainingSet, seconds: float) -> tuple[float, float]:
    """The shares of the first epoch, and of all later ones, that are waiting for data."""
    source, shares = received_ahead(batches(config, samples)), []
    of_epoch = -(-len(samples) // config.batch_size)
    epochs = max(1, round(seconds / STEP / len(samples)))
    for number in (1, epochs):
        began, steps = time.perf_counter(), 0.0
        for batch in islice(source, number * of_epoch):
            step = time.perf_counter()
            time.sleep(STEP * len(batch.position))
            steps += time.perf_counter() - step
        shares.append(1 - steps / (time.perf_counter() - began))
    return shares[0], shares[1]


def received_ahead(source: Iterator[Sample]) -> Iterator[Sample]:
    """Yield batches that a thread has received, as PyTorch's thread for pinned memory does."""
    batch = next(source)  # in this thread, because workers end with the thread that forked them
    with ThreadPoolExecutor(1) as thread:
        while True:
            coming = thread.submit(next, source)
            yield batch
            batch = coming.result()


def parts_of_a_sample(samples: TrainingSet, seconds: float) -> dict[str, float]:
    """Seconds of a whole sample, and of some of what it takes."""
    records = [samples.record(i) for i in range(len(samples))]
    pixels = [read_image(record.path) for record in records]
    size, read = samples.img_size, samples.read_features
    found = {}
    for name, work in (
        ("whole", lambda i: samples[i]),
        ("decoding the image", lambda i: read_image(records[i].path)),
        ("resizing it", lambda i: pad_to_frame(resize_image(pixels[i], size), size)),
        ("reading features", lambda i: None if read is None else read(records[i], "identity")),
    ):
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 8:
            work(done % len(records))
            done += 1
        found[name] = (time.perf_counter() - began) / done
    return found


if __name__ == "__main__":
    main()
