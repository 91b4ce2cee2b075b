"""Print the CPU time of validation by this code and by an earlier checkout, and compare tables.

    git worktree add ../before COMMIT
    python benchmarks/validation.py ../before [--protocols box point] [--epochs 0] [--img-size 256]

Both measure the same six drawn images, with 5 to 98 objects and 256 to 1024 pixels, with one
thread, each in a process of its own. Their tables must have the same bytes. `demo_student` is first
trained for a few minutes on other drawn images; with `--epochs 0`, its weights are random, and its
masks have pixels everywhere. The share of the model is that of its encoder and decoder. CPU time
does not depend on other processes as much as time does.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import torch
from PIL import Image

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import Protocol
from mobile_sam.data.index.table import Index
from mobile_sam.evaluation.options import EvaluationOptions
from mobile_sam.evaluation.runner import measure_images
from mobile_sam.evaluation.tables import write_table
from mobile_sam.models.build import build_sam_model

MODEL = "demo_student"
SCENES = [(256, 5), (256, 45), (512, 30), (512, 98), (1024, 20), (1024, 60)]  # pixels, objects


def main() -> None:
    """Print CPU seconds of both, the ratio, and the share of the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="checkout of the earlier code")
    parser.add_argument("--protocols", nargs="+", default=[], choices=get_args(Protocol))
    parser.add_argument("--epochs", type=int, default=14, help="of training; 0: random weights")
    parser.add_argument("--img-size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    protocols = tuple(args.protocols or RunConfig.model_fields["protocols"].default)
    if args.child:
        work, table = args.child
        print(json.dumps(validate(work, table, args.img_size, protocols)))
        return
    print(f"{platform.machine()}, one thread, {MODEL} at {args.img_size} px,", end=" ")
    print(f"{args.epochs} epochs; by {', '.join(protocols)}")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        prepare(work, args.epochs, args.img_size)
        for _ in range(args.pairs):
            codes = {"before": args.before.resolve(), "now": Path(__file__).resolve().parents[1]}
            found = {name: child(work, name, code) for name, code in codes.items()}
            for name, row in found.items():
                print(
                    f"{name:8}{row['seconds']:8.1f} s, of which model {row['model']:6.1f} s", end=""
                )
                print(f" ({1 - row['model'] / row['seconds']:.0%} is not the model)")
            tables = [(work / f"{name}.parquet").read_bytes() for name in codes]
            same = "the same bytes" if tables[0] == tables[1] else "OTHER BYTES"
            print(
                f"{found['before']['seconds'] / found['now']['seconds']:.1f} times faster, {same}"
            )


def child(work: Path, name: str, code: Path) -> dict[str, float]:
    """Validate by the code of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    arguments = [*sys.argv[1:], "--child", str(work), str(work / f"{name}.parquet")]
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def validate(
    work: Path, target: Path, img_size: int, protocols: tuple[Protocol, ...]
) -> dict[str, float]:
    """Write the table of the drawn images; return CPU seconds of all, and of the model."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model = build_sam_model(MODEL, img_size).eval()
    model.load_state_dict(torch.load(work / "weights.pt", weights_only=True))
    spent = {"model": 0.0}
    for part, name in ((model, "decode_all"), (model.image_encoder, "forward")):
        setattr(part, name, partial(timed, getattr(part, name), spent))
    thresholds = RunConfig.model_fields["thresholds"].default
    index, options = (
        Index(work / "index.parquet", "val"),
        EvaluationOptions(0.0, thresholds, protocols),
    )
    began = time.process_time()
    rows = measure_images(model, index, range(len(index)), options, MODEL)
    write_table(target, rows, {"thresholds": thresholds})
    return {"seconds": time.process_time() - began, **spent}


def timed(function: Callable[..., Any], spent: dict[str, float], *args: Any, **options: Any) -> Any:
    """Call a function of the model, and add its CPU time."""
    began = time.process_time()
    result = function(*args, **options)
    spent["model"] += time.process_time() - began
    return result


def prepare(work: Path, epochs: int, img_size: int) -> None:
    """Draw the images, index them, and write weights."""
    from mobile_sam.config.parsing import parse_config
    from mobile_sam.data.index.build import index_dataset
    from mobile_sam.evaluation.from_run import load_checkpoint_model
    from mobile_sam.paths import RunPaths
    from mobile_sam.training.run import train_run

    rng = np.random.default_rng(0)
    for number, (side, objects) in enumerate(SCENES):
        draw(work / "scenes", number, side, objects)
    index_dataset({"val": (work / "scenes/image", work / "scenes/mask")}, work / "index.parquet")
    if epochs == 0:
        torch.save(build_sam_model(MODEL, img_size).state_dict(), work / "weights.pt")
        return
    for number in range(64):
        split = "train" if number < 60 else "val"
        draw(work / split, 1000 + number, 256, int(rng.integers(8, 80)))
    places = {
        f"{split}_{key}_dir": str(work / split / kind)
        for split in ("train", "val")
        for key, kind in (("img", "image"), ("mask", "mask"))
    }
    sizes = {"img_size": img_size, "num_epochs": epochs, "batch_size": 2, "objects_per_image": 8}
    rates = {"learning_rate": 1e-3, "loss_weights": dict.fromkeys(("focal", "dice", "iou"), 1.0)}
    model = {"model_type": MODEL, "checkpoint": None, "freeze_batchnorm": False, "val_images": 2}
    names = {"run_name": "benchmark", "output_dir": str(work / "results"), "num_workers": 0}
    config = parse_config({**places, **sizes, **rates, **model, **names}, "benchmark")
    splits: dict[str, tuple[Path, ...]] = {
        split: (Path(places[f"{split}_img_dir"]), Path(places[f"{split}_mask_dir"]))
        for split in ("train", "val")
    }
    index_dataset(splits, RunPaths(config).index)
    train_run(config)
    torch.save(load_checkpoint_model(config, "00_finetune").state_dict(), work / "weights.pt")


def draw(directory: Path, number: int, side: int, objects: int) -> None:
    """Write an image of bright ellipses on a dark ground, and a label map of them."""
    rng = np.random.default_rng(number)
    labels, pixels = np.zeros((side, side), np.uint8), rng.normal(30, 6, (side, side, 3))
    cells = int(np.ceil(np.sqrt(objects)))
    for label, cell in enumerate(rng.permutation(cells**2)[:objects], start=1):
        y, x = (np.array(divmod(int(cell), cells)) + 0.5 + rng.uniform(-0.1, 0.1, 2)) * side / cells
        axes = rng.uniform([0.7, 0.5], [1.2, 1.0]) * side / np.sqrt(objects) / 3.2
        ellipse = np.zeros((side, side), np.uint8)
        place, radii = (int(x), int(y)), (max(2, int(axes[0])), max(2, int(axes[1])))
        cv2.ellipse(ellipse, place, radii, rng.uniform(0, 180), 0, 360, 1, -1)
        labels[(ellipse > 0) & (labels == 0)] = label
        pixels[ellipse > 0] += rng.uniform(60, 120)
    for kind, array in (("image", np.clip(pixels, 0, 255).astype(np.uint8)), ("mask", labels)):
        (directory / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(directory / kind / f"{number}.png")


if __name__ == "__main__":
    main()
