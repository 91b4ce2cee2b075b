"""Print how time, memory and disk space grow with the number of images.

    python benchmarks/scaling.py steps [--images 500 1000 2000]
    python benchmarks/scaling.py plan  [--images 110000 1100000 11000000]
    python benchmarks/scaling.py model [--teacher 6.7] [--student 40] [--devices 8]

`steps` runs each verb on drawn scenes of three numbers, with the models of `overlay=tiny`.
`plan` writes indexes of that many images, one segment each, and measures `snakemake -n` over them,
and what reading them takes in a process that trains. `model` needs the images/s of a device.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.build import images_per_group
from mobile_sam.data.index.table import SCHEMA
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.features.identity import bytes_per_image, identity
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.fingerprints import fingerprint

ROOT = Path(__file__).parents[1]
MEGABYTE, TERABYTE = 1 << 20, 1 << 40
VERBS = ("index", "extract", "train", "validate", "report")
SHAPE = (1500, 2250)  # of an image of SA-1B


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(required=True)
    steps = parts.add_parser("steps")
    steps.add_argument("--images", type=int, nargs=3, default=[500, 1000, 2000])
    steps.set_defaults(run=lambda args: print_steps(args.images))
    plan = parts.add_parser("plan")
    plan.add_argument("--images", type=int, nargs="+", default=[110_000, 1_100_000, 11_000_000])
    plan.set_defaults(run=lambda args: print_plans(args.images))
    model = parts.add_parser("model")
    model.add_argument("--images", type=int, nargs="+", default=[100_000, 1_100_000, 11_000_000])
    model.add_argument("--teacher", type=float, default=6.7, help="images/s of the teacher")
    model.add_argument("--student", type=float, default=40.0, help="images/s of training")
    model.add_argument("--devices", type=int, default=8)
    model.add_argument("--epochs", type=int, default=8)
    model.set_defaults(run=print_model)
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs")
    args.run(args)


def print_steps(sizes: Sequence[int]) -> None:
    """Seconds, memory and disk of each verb at three sizes."""
    found: dict[str, list[tuple[float, float]]] = {verb: [] for verb in VERBS}
    disk = []
    with tempfile.TemporaryDirectory() as name:
        for images in sizes:
            settings, store = drawn_project(Path(name) / str(images), images)
            for verb in VERBS:
                command = [sys.executable, "-m", "mobile_sam", verb, "--config", str(settings)]
                found[verb].append(seconds_and_memory(command))
            disk.append(sum(p.stat().st_size for p in store.rglob("*") if p.is_file()))
    print("seconds and MiB (`ms an image` from the first size to the second, second to third)")
    print("".join([f"{'':10}", *(f"{n:>16}" for n in sizes), f"{'ms an image':>18}"]))
    for verb, values in found.items():
        cells = "".join(f"{seconds:9.1f} {memory:6.0f}" for seconds, memory in values)
        slopes = np.diff([seconds for seconds, _ in values]) / np.diff(sizes) * 1000
        print(f"{verb:10}{cells}{slopes[0]:9.2f} {slopes[1]:8.2f}")
    of_each = [f"{size / 1024 / n:.1f}" for size, n in zip(disk, sizes, strict=True)]
    print(f"features, KiB an image: {', '.join(of_each)}")


def drawn_project(directory: Path, images: int) -> tuple[Path, Path]:
    """Scenes, a tenth of them to validate, and settings; returns those and the feature store."""
    for split, count in (("train", images), ("val", images // 10)):
        write_scenes(directory / split, count, 64, seed=len(split))
    settings = {
        **{
            f"{split}_{short}_dir": str(directory / split / name)
            for split in ("train", "val")
            for short, name in (("img", "image"), ("mask", "mask"))
        },
        **{"run_name": "scaling", "output_dir": str(directory / "results"), "num_workers": 0},
        **{"model_type": "tiny_sam", "teacher_model_type": "tiny_teacher_vit", "img_size": 64},
        **{"checkpoint": None, "teacher_checkpoint": "random", "use_distill": True},
        **{"num_epochs": 1, "batch_size": 8, "val_images": 0, "benchmark_repeats": 0},
    }
    path = directory / "run.json"
    path.write_text(json.dumps(settings))
    return path, RunPaths(parse_config(settings, "scaling")).features


def print_plans(sizes: Sequence[int]) -> None:
    """Print the cost of planning and reading large indexes."""
    with tempfile.TemporaryDirectory() as name:
        print_files(Path(name))
        for images in sizes:
            directory = Path(name) / str(images)
            settings, index = planned_project(directory)
            write_index(index, images)
            print(f"{images:,} images: index of {index.stat().st_size / MEGABYTE:.0f} MiB")
            for jobs in (1, 100):
                command = [
                    *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
                    *("--directory", str(directory), "-n", "--quiet", "all"),
                    *("--config", f"run={settings}", f"extract_jobs={jobs}"),
                ]
                seconds, memory = seconds_and_memory(command)
                print(
                    f"  snakemake -n, {jobs:3} extraction jobs: {seconds:.1f} s, {memory:.0f} MiB"
                )
            print(f"  reading: {output_of(READING, str(index))}")
            index.unlink()


def print_files(directory: Path, files: int = 100_000) -> None:
    """Print the cost of checking each file without `data.revision`."""
    config = parse_config(json.loads(planned_project(directory)[0].read_text()), "scaling")
    watched = config.model_copy(update={"data": config.data.model_copy(update={"revision": None})})
    for number in range(files):
        (directory / "images" / f"{number:08d}.jpg").touch()
    seconds = timed(lambda: fingerprint(watched))
    print(f"looking at {files:,} files: {seconds:.1f} s, {seconds / files * 11e6:.0f} s for 11 M")
    print(f"with data.revision: {timed(lambda: fingerprint(config)):.6f} s")


def planned_project(directory: Path) -> tuple[Path, Path]:
    """Settings of a run over data that has a version, and where its index lies."""
    (directory / "images").mkdir(parents=True)
    places = {f"{split}_{what}_dir" for split in ("train", "val") for what in ("img", "mask")}
    settings = {
        **{key: str(directory / "images") for key in places},
        **{"run_name": "planned", "output_dir": str(directory / "results")},
        **{"checkpoint": None, "teacher_checkpoint": "random", "teacher_model_type": "vit_h"},
        **{"use_distill": True, "data": {"revision": "1"}},
    }
    path = directory / "planned.json"
    path.write_text(json.dumps(settings))
    return path, RunPaths(parse_config(settings, "scaling")).index


def write_index(path: Path, images: int) -> None:
    """An index of images that are nowhere, with a segment each, as `index` would write it."""
    path.parent.mkdir(parents=True)
    rng, groups = np.random.default_rng(0), 0
    size = images_per_group(images)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", write_statistics=["image"]) as writer:
        for start in range(0, images, size):
            numbers = range(start, min(images, start + size))
            writer.write_table(_rows(numbers, rng), row_group_size=len(numbers))
            groups += 1
        of_split = {"first_group": 0, "groups": groups, "images": images, "segments": images}
        splits = {"train": of_split, "val": of_split}
        content = json.dumps({"splits": splits, "problems": []})
        writer.add_key_value_metadata({"mobile_sam": content})


def _rows(numbers: range, rng: np.random.Generator) -> pa.Table:
    count = len(numbers)
    digests = rng.bytes(16 * count).hex()
    columns = {
        "image": list(numbers),
        "image_id": [f"sa_{n:08d}" for n in numbers],
        "image_path": [f"/data/sa1b/{n // 11000:06d}/sa_{n:08d}.jpg" for n in numbers],
        "image_digest": [digests[32 * i : 32 * i + 32] for i in range(count)],
        "segment_id": [str(n) for n in numbers],
        "rle": [rng.bytes(60) for _ in numbers],
    }
    same = {"split": "train", "height": SHAPE[0], "width": SHAPE[1], "format": "sa1b"}
    same |= {"x0": 10, "y0": 10, "x1": 100, "y1": 100, "area": 5000}
    columns |= {name: [value] * count for name, value in same.items()}
    missing = set(SCHEMA.names) - set(columns)
    return pa.table(columns | {name: [None] * count for name in missing}, schema=SCHEMA)


# In a process of its own, so that its memory is what reading takes.
READING = """
import random, sys, time
from pathlib import Path
import psutil
from mobile_sam.data.index.digest_lookup import DigestLookup
from mobile_sam.data.index.table import Index
def used():
    return psutil.Process().memory_full_info().uss / 2**20
before, began = used(), time.perf_counter()
index = Index(Path(sys.argv[1]), "train")
opened, at = time.perf_counter() - began, used() - before
draw = random.Random(0)
began = time.perf_counter()
for _ in range(200):
    index[draw.randrange(len(index))]
each = (time.perf_counter() - began) / 200
began, now = time.perf_counter(), used()
places = DigestLookup(index.digests())
looked = time.perf_counter() - began
print(f"open {opened:.1f} s {at:.0f} MiB, an image {each * 1000:.1f} ms, "
      f"all digests {looked:.1f} s {used() - now:.0f} MiB")
"""


def print_model(args: argparse.Namespace) -> None:
    """Disk and wall time of distilling from ViT-H at 1024 px, by the rates that are given."""
    config = RunConfig(
        run_name="model", teacher_checkpoint="random", teacher_model_type="vit_h", use_distill=True
    )
    print(
        f"teacher {args.teacher} images/s and training {args.student} images/s of a device, "
        f"{args.devices} devices, {args.epochs} epochs"
    )
    for dtype in ("float16", "int8"):
        size = bytes_per_image(identity(config.model_copy(update={"feature_dtype": dtype})))
        for images in args.images:
            extraction = images / args.teacher / args.devices / 3600
            training = images * args.epochs / args.student / args.devices / 3600
            print(
                f"  {dtype:8} {images:>11,} images: features {images * size / TERABYTE:6.2f} TiB, "
                f"extraction {extraction:6.1f} h, training {training:6.1f} h"
            )


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def seconds_and_memory(command: Sequence[str]) -> tuple[float, float]:
    """Wall time of a command, and the largest memory of its process in MiB."""
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            output.seek(0)
            sys.exit(output.read().decode()[-2000:])
    return seconds, usage.ru_maxrss / 1024


def output_of(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
