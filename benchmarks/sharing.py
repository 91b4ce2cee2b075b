"""Print the time of a sweep of 18 variants, compared with 18 separate runs.

    python benchmarks/sharing.py [--overlay tiny]

Both train `distill_then_finetune` with 2 distillation losses, 3 learning rates of fine-tuning and 3
seeds, one job at a time, up to the weights. Separate runs have a project each, so they share
nothing. The arithmetic saving is the time of the jobs of the separate runs that the sweep does not
need, because it has them in common: index, teacher, features, and `distill` for equal losses and
seeds.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from mobile_sam.config.load import resolve

ROOT = Path(__file__).parents[1]
RATES, LOSSES, SEEDS = [0.001, 0.003, 0.01], [{"mse": 1, "cosine": 0}, {"mse": 0, "cosine": 1}], 3
SWEEP = {"finetune.learning_rate": RATES, "distill.distill_losses": LOSSES}


def main() -> None:
    """Print both times, and the share of the arithmetic saving that the sweep reaches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--overlay", default="tiny")
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        settings = json.loads((ROOT / "configs" / "distill_then_finetune.json").read_text())
        del settings["$schema"]
        swept = settings | {"run_name": "swept", "sweep": SWEEP, "replicates": SEEDS}
        together = run(directory, swept, args.overlay, "swept")
        separate = 0.0
        for number, variant in enumerate(variants(directory, args.overlay)):
            alone = settings | variant | {"run_name": "alone"}
            separate += run(directory, alone, args.overlay, f"project{number}")
        jobs = job_seconds(directory / "results")
    counts = {"synthesize": 1, "index": 1, "teacher": 1, "features": 1}
    counts |= {"distill": len(LOSSES) * SEEDS, "finetune": 18, "export": 18}
    needed = sum(counts[kind] * seconds.mean() for kind, seconds in jobs.items())
    saving = sum(seconds.sum() for seconds in jobs.values()) - needed
    print(f"18 separate runs  {separate:6.0f} s")
    print(f"one sweep         {together:6.0f} s")
    print(f"saved {separate - together:.0f} s; jobs that are not needed take {saving:.0f} s")
    print(f"share of the arithmetic saving: {(separate - together) / saving:.2f}")


def variants(directory: Path, overlay: str) -> list[dict[str, Any]]:
    """Return the settings in which the variants differ."""
    runs = resolve(str(directory / "run.json"), overlay, {})
    keys = {"stage_schedule", "num_epochs", "seed"}
    return [
        {k: v for k, v in config.model_dump(mode="json", exclude_none=True).items() if k in keys}
        for config in runs.named
    ]


def run(directory: Path, settings: dict[str, Any], overlay: str, project: str) -> float:
    """Train the runs of a file up to their weights, and their teacher; return seconds."""
    path = directory / "run.json"
    path.write_text(json.dumps(settings))
    names = [config.run_name for config in resolve(str(path), overlay, {}).named]
    began = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
            *("--directory", str(directory), "--cores", "1"),
            *(f"results/{project}/{name}/weights.pt" for name in names),
            *("--quiet", "all", "--config", f"run={path}"),
            *(f"overlay={overlay}", f"project_name={project}"),
        ],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - began


def job_seconds(results: Path) -> dict[str, pd.Series]:
    """Return the seconds of each job of the separate runs, by kind, from Snakemake's benchmarks."""
    found = defaultdict(list)
    for project in results.glob("project*"):
        names = json.loads(next(project.glob("alone*/stages.json")).read_text())
        stages = {directory: stage[3:] for stage, directory in names.items()}
        of_project: dict[str, float] = defaultdict(float)
        for path in project.rglob("*.tsv"):
            seconds = float(pd.read_csv(path, sep="\t")["s"].sum())
            of_project[kind(path, stages)] += seconds
        for name, seconds in of_project.items():
            found[name].append(seconds)
    return {name: pd.Series(seconds) for name, seconds in found.items()}


def kind(path: Path, stages: dict[str, str]) -> str:
    """Return the kind of the job that a file of Snakemake's benchmarks is about."""
    if path.name == "train.tsv":
        return stages.get(path.parent.name, "teacher")
    if path.parent.parent.name.startswith("demo_teacher"):
        return "teacher"
    return path.stem if path.stem in {"synthesize", "index", "export"} else "features"


if __name__ == "__main__":
    main()
