"""Print the error of features in float16 and int8, and its effect on the student.

    python benchmarks/feature_dtype.py DIRECTORY [--images 300] [--epochs 8]

Runs the demo on shapes, at reduced size, below DIRECTORY, where it goes on if it was interrupted:
one teacher, and three students of it that differ in the features alone, `online` ones being exact.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from mobile_sam.config.load import load_settings
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.table import Index
from mobile_sam.extraction.compute import TeacherImages
from mobile_sam.extraction.passes import teacher_pass
from mobile_sam.features.identity import identity
from mobile_sam.features.store import FeatureStore
from mobile_sam.models.student_teacher import load_teacher
from mobile_sam.paths import RunPaths
from mobile_sam.system.package_data import CONFIG_DIR

ROOT = Path(__file__).parents[1]
STUDENTS = {
    "online": {"teacher_features": "online"},
    "float16": {"feature_dtype": "float16"},
    "int8": {"feature_dtype": "int8"},
}
_COMPARED = 32  # images


def write_runs(directory: Path, args: argparse.Namespace) -> None:
    """The demo's teacher and students as files of their own, with fewer images, on shapes."""
    demo = json.loads((CONFIG_DIR / "overlays" / "demo.json").read_text())
    size = {"train": args.images, "val": 50, "size": 128}
    batches = {"batch_size": 8, "objects_per_image": 4}
    common = demo["settings"] | batches | {"synthetic": size, "val_images": 0}
    teacher = demo["runs"]["demo_teacher"] | {"num_epochs": args.teacher_epochs}
    entries = [(0, args.epochs // 2, True), (args.epochs // 2, args.epochs, False)]
    weights = {"focal": 0.0, "dice": 0.0, "iou": 0.0}
    schedule = [
        {"start_epoch": start, "end_epoch": end, "distillation": distils}
        | ({"loss_weights": weights} if distils else {})
        for start, end, distils in entries
    ]
    student = {"num_epochs": args.epochs, "stage_schedule": schedule}
    student["teacher_checkpoint"] = f"run:{directory / 'teacher.json'}"
    runs = {"teacher": teacher} | {name: student | STUDENTS[name] for name in STUDENTS}
    for name, settings in runs.items():
        (directory / f"{name}.json").write_text(json.dumps(common | settings))


def train(directory: Path) -> dict[str, RunConfig]:
    """Train all through the workflow; returns the students."""
    runs = ",".join(str(directory / f"{name}.json") for name in STUDENTS)
    subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
            *("--directory", str(directory), "--cores", "1", "--quiet", "all"),
            *("--config", f"run={runs}"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    os.chdir(directory)
    return {
        name: load_settings(Path("results/mobile_sam") / name / "run.json") for name in STUDENTS
    }


def cosine(
    config: RunConfig, levels: dict[str, torch.Tensor], position: int
) -> tuple[float, float]:
    """One minus the cosine of stored and exact feature vectors: mean over pixels, and largest."""
    paths = RunPaths(config)
    record = Index(paths.index, "train")[position]
    stored = FeatureStore(paths.features, identity(config)).read(record)
    errors = torch.stack(
        [
            1 - F.cosine_similarity(stored[name].double(), exact[0].double(), dim=0)
            for name, exact in levels.items()
        ]
    )
    return errors.mean().item(), errors.max().item()


def print_errors(configs: dict[str, RunConfig]) -> None:
    """Print the error of stored features against the teacher's own, in float64."""
    config = configs["online"]
    index = Index(RunPaths(config).index, "train")
    encoder = load_teacher(config).image_encoder
    images = TeacherImages(index, config.img_size, ["identity"])
    print(f"\n1 - cosine to the teacher's features, {_COMPARED} images   mean       largest")
    frames = [images[i].on(torch.device("cpu")) for i in range(_COMPARED)]
    exact = [teacher_pass(encoder, frame, config.distill_levels) for frame in frames]
    for name in ("float16", "int8"):
        found = torch.tensor([cosine(configs[name], f, i) for i, f in enumerate(exact)])
        print(f"{name:<48}{found[:, 0].mean():10.2e} {found[:, 1].max():10.2e}")


def print_quality(configs: dict[str, RunConfig]) -> None:
    """Print mIoU by prompt of each student after each stage, and its speed while distilling."""
    print(
        "\nmIoU of the student     distilled: box       point     at the end: box, point    img/s"
    )
    for name, config in configs.items():
        with (RunPaths(config).report / "summary.csv").open(newline="") as file:
            rows = {(r["checkpoint"], r["prompt"]): float(r["miou"]) for r in csv.DictReader(file)}
        cells = [
            f"{rows[stage, prompt]:12.4f}"
            for stage in ("00_distill", "01_finetune")
            for prompt in ("box", "point")
        ]
        with RunPaths(config).metrics(normalise(config)[0]).open(newline="") as file:
            rates = [float(row["images_per_s"]) for row in csv.DictReader(file)]
        print(f"{name:<24}{''.join(cells)}{np.median(rates):10.1f}")


def main() -> None:
    """Train what is missing, then print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--teacher-epochs", type=int, default=10)
    args = parser.parse_args()
    directory = args.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    write_runs(directory, args)
    configs = train(directory)
    print(f"{platform.machine()}, torch {torch.__version__}; the demo with {args.images} images")
    print(f"of 128 px, {args.epochs} epochs, half of them distilling at the neck; one seed")
    print_errors(configs)
    print_quality(configs)


if __name__ == "__main__":
    main()
