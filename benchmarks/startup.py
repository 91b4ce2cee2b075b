"""Print the start-up of commands that load a model, compared with `python -c "import torch"`.

    python benchmarks/startup.py [--rounds 5] [--before CHECKOUT]

Each command does next to nothing: a model of 64 pixels, one image of that size, a run of ten
images. CPU seconds of whole processes with one thread, the median of some rounds in turns; other
processes change them less than the time on the clock. `--before` adds another checkout of this
repository, in the same rounds.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from mobile_sam.data.synthetic import write_scenes
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, for comparison")
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    packages = {"now": ROOT} | ({"before": args.before.resolve()} if args.before else {})
    with tempfile.TemporaryDirectory() as name:
        commands = prepare(Path(name))
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(args.rounds):
            for who, package in packages.items():
                torch_alone = cpu_seconds(["-c", "import torch"], package)
                times.setdefault(("import torch", who), []).append(torch_alone)
                for command, words in commands.items():
                    remove_results(Path(name), command)
                    seconds = cpu_seconds(["-m", "mobile_sam", *words], package)
                    times.setdefault((command, who), []).append(seconds)
    medians = {key: statistics.median(each) for key, each in times.items()}
    for (what, who), seconds in medians.items():
        ratio = seconds / medians["import torch", who]
        print(f"{who:8}{what:14}{seconds:6.2f} s {ratio:6.2f}")


def prepare(directory: Path) -> dict[str, Sequence[str]]:
    """Return the words of each command, after making what it reads."""
    for split, count in (("train", 8), ("val", 2)):
        write_scenes(directory / split, count, 64, seed=count)
    data = {
        f"{split}_{short}_dir": str(directory / split / name)
        for split in ("train", "val")
        for short, name in (("img", "image"), ("mask", "mask"))
    }
    settings = {
        **data,
        **{"run_name": "startup", "output_dir": str(directory / "results"), "num_workers": 0},
        **{"model_type": "tiny_sam", "img_size": 64, "checkpoint": None, "use_distill": False},
        **{"num_epochs": 1, "batch_size": 8, "val_images": 0, "benchmark_repeats": 0},
    }
    (directory / "run.json").write_text(json.dumps(settings))
    weights = directory / "weights.pt"
    torch.save(to_original(build_sam_model("tiny_sam", 64)), weights)
    config = ("--config", str(directory / "run.json"))
    for command in ("index", "train"):
        cpu_seconds(["-m", "mobile_sam", command, *config], ROOT)
    model = ("--weights", str(weights), "--img-size", "64", "--out", str(directory / "out"))
    image = next((directory / "val/image").iterdir())
    return {
        "predict": ("predict", *model, "--image", str(image), "--point", "32", "32"),
        "segment": ("segment", *model, "--images", str(image.parent), "--points-per-side", "1"),
        "export": ("export", *config),
        "validate": ("validate", *config, "--checkpoint", "start"),
        "train": ("train", *config),
    }


def remove_results(directory: Path, command: str) -> None:
    """Remove the masks of the command before, and the results of validation."""
    shutil.rmtree(directory / "out", ignore_errors=True)
    if command == "validate":
        for path in [*directory.glob("results/**/validation")]:
            shutil.rmtree(path, ignore_errors=True)


def cpu_seconds(words: Sequence[str], package: Path) -> float:
    """Run Python in a process of its own and return the CPU seconds that it took."""
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    main()
