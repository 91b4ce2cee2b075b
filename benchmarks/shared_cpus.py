"""Print the speed of training alone and beside a busy process, by settings of threads.

    python benchmarks/shared_cpus.py [--images 240] [--threads N]

Trains the demo's teacher at 128 px on drawn scenes for two epochs in processes of their own, and
counts the second one: with as many threads as there are CPUs that spin as long as OpenMP lets them
by default, that spin briefly (GOMP_SPINCOUNT=1000, what every command sets), and with one thread.
The busy process computes without pause in one thread. Ratios are to the first line.
"""

import argparse
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from mobile_sam.config.load import resolve
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.paths import RunPaths

SPINNING = {"default": "300000", "GOMP_SPINCOUNT=1000": "1000", "one thread": "1000"}
LITTLE = {
    "num_epochs": 2,
    "batch_size": 8,
    "objects_per_image": 4,
    "val_images": 0,
    "num_workers": 0,
}


def main() -> None:
    """Print a line for each way, alone and beside a busy process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {args.threads} threads")
    alone = None
    with tempfile.TemporaryDirectory() as name:
        project = Path(name)
        for split, count in (("train", args.images), ("val", 1)):
            write_scenes(project / split, count, 128, seed=len(split))
        for beside in (False, True):
            for number, way in enumerate(SPINNING):
                threads = 1 if way == "one thread" else args.threads
                with busy_process(beside):
                    rate = train(project, f"run{number}{beside:d}", threads, way)
                alone = alone or rate
                where = "beside a busy process" if beside else "alone"
                print(f"  {where:22}{way:21}{rate:6.1f} img/s {rate / alone:5.2f}", flush=True)


def train(project: Path, run: str, threads: int, way: str) -> float:
    """Images a second of the second epoch."""
    changes = {
        f"{split}_{short}_dir": str(project / split / name)
        for split in ("train", "val")
        for short, name in (("img", "image"), ("mask", "mask"))
    }
    changes |= {"output_dir": str(project / "results"), "project_name": run}
    (config,) = resolve("demo_teacher", "demo", changes | LITTLE).named
    paths = RunPaths(config)
    index_dataset(paths.sources, paths.index, config.data)
    path = project / f"{run}.json"
    path.write_text(config.model_dump_json(exclude={"schema_file"}))
    environment = {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": SPINNING[way]}
    subprocess.run(
        [sys.executable, "-m", "mobile_sam", "train", "--config", str(path)],
        check=True,
        capture_output=True,
        env=os.environ | environment,
    )
    return float(pd.read_csv(paths.metrics(normalise(config)[0]))["images_per_s"].iloc[1])


@contextmanager
def busy_process(wanted: bool) -> Iterator[None]:
    """Another process at work, if one is wanted."""
    process = multiprocessing.Process(target=spin, daemon=True)
    if wanted:
        process.start()
    try:
        yield
    finally:
        if wanted:
            process.kill()
            process.join()


def spin() -> None:
    """Compute for ever."""
    while True:
        sum(range(10_000))


if __name__ == "__main__":
    main()
