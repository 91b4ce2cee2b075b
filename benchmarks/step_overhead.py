"""Print the share of a training step besides forward, backward and update.

    python benchmarks/step_overhead.py [--data ../shared/data/coco8] [--img-size 1024]

Trains a randomly initialised `vit_t` with masks and with stored features of another one. What is
left of an epoch is reading images, masks and features, drawing prompts, clipping, logging and
keeping count; the first epoch is left out.
"""

import logging
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from loading import options, prepare

from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.training.run import train_run
from mobile_sam.training.step import TrainingModule

PARTS = ((TrainingModule, "forward"), (Fabric, "backward"), (torch.optim.AdamW, "step"))


def main() -> None:
    """Print seconds of each part of an epoch, and the share of the rest."""
    parser = options(__doc__, num_workers=0, batch_size=1)
    parser.add_argument("--epochs", type=int, default=4, help="the first of which is left out")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    spent: dict[str, list[float]] = defaultdict(list)
    for owner, name in PARTS:
        setattr(owner, name, timed(getattr(owner, name), spent[name]))
    with tempfile.TemporaryDirectory() as directory:
        config = prepare(args, directory, args.epochs)
        train_run(config)
        (stage,) = normalise(config)
        seconds = pd.read_csv(RunPaths(config).metrics(stage))["seconds"]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads")
    print(f"{args.img_size} px, {args.num_workers} workers, seconds of {len(seconds) - 1} epochs:")
    total = seconds[1:].sum()
    parts = {name: sum(times[len(times) // len(seconds) :]) for name, times in spent.items()}
    for name, part in parts.items():
        print(f"  {name:9} {part:8.2f}  {part / total:6.1%}")
    rest = total - sum(parts.values())
    print(f"  {'the rest':9} {rest:8.2f}  {rest / total:6.1%}")


def timed(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    """The function, which notes what each call took."""

    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments, **options)
        times.append(time.perf_counter() - began)
        return result

    return call


if __name__ == "__main__":
    main()
