"""Time and memory of the index of a COCO-like file, and the memory of reading it in training.

    python benchmarks/index.py [--images 100000] [--images-from DIRECTORY]

Draws a JSON file of polygons, 8.5 of them an image, as COCO has; the images are links to those of
a directory (8 photographs of COCO by default), so that they come from the file cache. Prints
seconds and the largest memory of all processes together, of a new index and of one with a changed
image; then what an `Index` of 1 % and of 100 % of the images takes in memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

OBJECTS_PER_IMAGE = 8.5
MEGABYTE = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--images-from", type=Path, default=Path("../shared/data/coco8"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        photographs = sorted(args.images_from.rglob("*.jpg"))
        for count in (args.images // 100, args.images):
            project = directory / f"of_{count}"
            settings = write_project(project, photographs, count)
            if count == args.images:
                report("new index", settings)
                touched = next((project / "images").iterdir())
                content = touched.read_bytes()
                touched.unlink()
                touched.write_bytes(content)
                report("one image changed", settings)
            else:
                run(settings)
            print(f"reading 300 random images of {count}: {memory_of_reading(settings)}")


def write_project(project: Path, photographs: list[Path], count: int) -> Path:
    """Links to photographs, a COCO file and settings; returns the settings."""
    rng = np.random.default_rng(0)
    (project / "images").mkdir(parents=True)
    sizes = [Image.open(path).size for path in photographs]
    images, annotations = [], []
    for number in range(count):
        which = number % len(photographs)
        width, height = sizes[which]
        name = f"{number:012d}.jpg"
        (project / "images" / name).symlink_to(photographs[which].resolve())
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for _ in range(rng.poisson(OBJECTS_PER_IMAGE)):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": int(rng.integers(1, 81)),
                    "iscrowd": 0,
                    "segmentation": [polygon(width, height, rng)],
                }
            )
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, 81)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (project / "instances.json").write_text(json.dumps(content))
    settings = {
        "run_name": "benchmark",
        "output_dir": str(project / "results"),
        "train_img_dir": str(project / "images"),
        "train_mask_dir": str(project / "instances.json"),
        "val_img_dir": None,
        "val_mask_dir": None,
        "data": {"duplicates": "allow"},  # links to a few photographs, in both splits
    }
    (project / "run.json").write_text(json.dumps(settings))
    size = (project / "instances.json").stat().st_size / MEGABYTE
    if count >= 10_000:
        print(f"{count} images, {len(annotations)} objects, {size:.0f} MiB of JSON", flush=True)
    return project / "run.json"


def polygon(width: int, height: int, rng: np.random.Generator) -> list[float]:
    """A blob of 8 to 40 corners somewhere in the image."""
    corners = int(rng.integers(8, 41))
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = np.exp(rng.uniform(np.log(8), np.log(height / 3))) * rng.uniform(0.7, 1, corners)
    x = np.clip(rng.uniform(0, width) + radius * np.cos(angles), 0, width)
    y = np.clip(rng.uniform(0, height) + radius * np.sin(angles), 0, height)
    return np.stack([x, y], axis=1).round(2).ravel().tolist()


def report(what: str, settings: Path) -> None:
    """Print seconds and memory of `index`."""
    seconds, peak = run(settings)
    print(f"{what}: {seconds:.1f} s, {peak / MEGABYTE:.0f} MiB", flush=True)


def run(settings: Path) -> tuple[float, int]:
    """Seconds, and the largest memory (unique set size, bytes) of all processes together."""
    command = [sys.executable, "-m", "mobile_sam", "index", "--config", str(settings)]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, memory(psutil.Process(process.pid)))
            time.sleep(1)  # looking costs time of its own

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(errors.decode())
    return time.monotonic() - began, peak


def memory(process: psutil.Process) -> int:
    """Unique set size of a process and its children, bytes."""
    total = 0
    try:
        for each in [process, *process.children(recursive=True)]:
            total += each.memory_full_info().uss
    except psutil.NoSuchProcess:  # it has just ended
        return total
    return total


def memory_of_reading(settings: Path) -> str:
    """Memory that an index adds to a process that reads 300 random images of it."""
    code = (
        "import sys, psutil, random; from pathlib import Path\n"
        "from mobile_sam.data.index.table import Index\n"
        "path = next(Path(sys.argv[1]).rglob('index.parquet'))\n"
        "before = psutil.Process().memory_full_info().uss\n"
        "index = Index(path, 'train')\n"
        "for i in random.Random(0).choices(range(len(index)), k=300): index[i]\n"
        "print((psutil.Process().memory_full_info().uss - before) >> 20)\n"
    )
    command = [sys.executable, "-c", code, str(settings.parent)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return f"{found.stdout.strip()} MiB"


if __name__ == "__main__":
    main()
