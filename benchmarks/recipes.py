"""Compare ways to train a student in equal time: the table of docs/recipes.md.

    python benchmarks/recipes.py run   [--scenes NAME ...] [--seeds 3] [--out results/recipes.csv]
    python benchmarks/recipes.py table [--out results/recipes.csv]

`run` trains what the CSV does not hold yet, two runs at a time with one thread each, and adds a row
for each: it may be ended and begun again. Every run has the same CPU seconds for all its stages,
turned into epochs by what an epoch of each kind of stage was measured to take; `table` prints means
and spreads. Runs start from a random encoder and the teacher's decoder. mIoU is that of
`validate`, at the images' own size. What is compared stands in `scenes.py`.
"""

import argparse
import csv
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from scenes import SCENES, Recipe, slug, stage, student_config, teacher_config

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.build import index_dataset
from mobile_sam.evaluation.validate_run import validate
from mobile_sam.extraction.compute import extract_features
from mobile_sam.extraction.plan import finish_extraction, plan_extraction
from mobile_sam.paths import RunPaths
from mobile_sam.training.export import export_weights
from mobile_sam.training.run import train_run


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["run", "table", "job"])
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=list(SCENES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/recipes.csv"))
    parser.add_argument("--work", type=Path, default=Path("results/recipes"))
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.action == "table":
        print_table(pd.read_csv(args.out))
    elif args.action == "job":
        job(args.work, **args.job)
    else:
        run(args)


def run(args: argparse.Namespace) -> None:
    """Data, teachers, features and costs first; then all runs that the CSV lacks."""
    begin("teacher", args, [{"scene": n} for n in unique_teachers(args.scenes)])
    begin("features", args, [{"scene": name} for name in args.scenes])
    kinds = [
        {"scene": name, "distil": distil, "unlabelled": unlabelled}
        for name in args.scenes
        for distil, unlabelled in kinds_of_stages(SCENES[name][1])
    ]
    begin("cost", args, kinds)
    done = set()
    if args.out.is_file():
        table = pd.read_csv(args.out)
        done = set(zip(table["scene"], table["recipe"], table["seed"], strict=True))
    jobs = [
        {"scene": name, "recipe": recipe, "seed": seed}
        for seed in range(args.seeds)
        for name in args.scenes
        for recipe in SCENES[name][1]
        if (name, recipe, seed) not in done
    ]
    begin("train", args, jobs)
    print_table(pd.read_csv(args.out))


def begin(do: str, args: argparse.Namespace, jobs: list[dict[str, Any]]) -> None:
    """Do jobs in processes of one thread each, two at a time; rows of results go to the CSV."""

    def one(what: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "job", f"--work={args.work}"]
        done = subprocess.run(
            [*command, "--job", json.dumps({"do": do, **what})],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        print(f"{do}  {what}  {done.stdout.strip()}", flush=True)
        if do == "train":
            add_row(args.out, what | json.loads(done.stdout))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, jobs))


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row; the first brings the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def unique_teachers(names: list[str]) -> list[str]:
    """One scene for each teacher."""
    return list({(SCENES[n][0].data, SCENES[n][0].teacher_epochs): n for n in names}.values())


def kinds_of_stages(recipes: dict[str, Recipe]) -> list[tuple[str | None, bool]]:
    """Return the kinds of stages by cost: (distil, unlabelled)."""
    return list(
        dict.fromkeys([(None, False), *((r.distil, r.unlabelled) for r in recipes.values())])
    )


def job(work: Path, do: str, scene: str, **what: Any) -> None:
    """One job, in this process; prints its result as JSON."""
    logging.disable(logging.INFO)
    {"teacher": teacher, "features": features, "cost": cost, "train": train}[do](
        work, scene, **what
    )


def teacher(work: Path, name: str) -> None:
    """Train the scene's teacher on all images with masks."""
    scene = SCENES[name][0]
    config = teacher_config(work, scene)
    if not RunPaths(config).weights.is_file():
        index(config)
        train_run(config)
        export_weights(config)
        validate(config, normalise(config)[-1].directory)
    print(json.dumps(miou(config)))


def features(work: Path, name: str) -> None:
    """Index, and the teacher's features, of what the scene shows."""
    for unlabelled in (True, False):
        config = student_config(work, name, "features", [stage("mse", 0, 1)], 0, unlabelled)
        began = time.process_time()
        index(config)
        plan_extraction(config)
        extract_features(config)
        finish_extraction(config)
        seconds = time.process_time() - began
    print(json.dumps({"cpu_seconds": round(seconds, 1)}))


def cost(work: Path, name: str, distil: str | None, unlabelled: bool) -> None:
    """CPU seconds of an epoch of a kind of stage: half of what two more take."""
    path = cost_path(work, name, distil, unlabelled)
    if not path.is_file():
        found = []
        for epochs in (1, 3):
            run_name = f"cost-{path.stem}-{epochs}"
            stages = [stage(distil, 0, epochs)]
            config = student_config(work, name, run_name, stages, 0, unlabelled)
            shutil.rmtree(RunPaths(config).run, ignore_errors=True)
            began = time.process_time()
            train_run(config)
            found.append(time.process_time() - began)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps((found[1] - found[0]) / 2))
    print(path.read_text())


def train(work: Path, name: str, recipe: str, seed: int) -> None:
    """Train and validate one run."""
    scene, recipes = SCENES[name]
    how = recipes[recipe]
    stages, epoch = [], 0
    parts = [(how.distil, how.unlabelled, how.share)] if how.distil else []
    if how.distil is None or how.share < 1:
        parts.append((None, False, 1 - sum(share for *_, share in parts)))
    for distil, unlabelled, share in parts:
        each = json.loads(cost_path(work, name, distil, unlabelled).read_text())
        epochs = max(1, round(share * scene.seconds / each))
        stages.append(stage(distil, epoch, epoch + epochs))
        epoch += epochs
    run_name = f"{slug(recipe)}-seed{seed}"
    config = student_config(work, name, run_name, stages, seed, how.unlabelled)
    shutil.rmtree(RunPaths(config).run, ignore_errors=True)
    began = time.process_time()
    train_run(config)
    seconds = time.process_time() - began
    validate(config, normalise(config)[-1].directory)
    epochs = "+".join(str(s["end_epoch"] - s["start_epoch"]) for s in stages)
    print(json.dumps({"epochs": epochs, "cpu_seconds": round(seconds, 1), **miou(config)}))


def cost_path(work: Path, name: str, distil: str | None, unlabelled: bool) -> Path:
    """Return the path of the measured seconds of an epoch."""
    kind = slug(distil or "fine-tune") + ("-unlabelled" if unlabelled and distil else "")
    return work / "costs" / slug(name) / f"{kind}.json"


def index(config: RunConfig) -> None:
    """Index the data of a run, unless that is done."""
    paths = RunPaths(config)
    if not paths.index.is_file():
        index_dataset(paths.sources, paths.index, config.data)


def miou(config: RunConfig) -> dict[str, float]:
    """Return the mean IoU of the last stage, by prompt."""
    table = pd.read_parquet(RunPaths(config).validation(normalise(config)[-1].directory))
    means = table.groupby("prompt")["iou"].mean()
    return {prompt: round(float(means[prompt]), 4) for prompt in ("box", "point")}


def print_table(table: pd.DataFrame) -> None:
    """Means and half the range over seeds, in Markdown; the best of each scene is bold."""
    print(f"{platform.machine()}, one thread a run, {table['seed'].nunique()} seeds")
    for scene, of_scene in table.groupby("scene", sort=False):
        print(f"\n**{scene}** {asdict(SCENES[scene][0])}\n")
        print("| recipe | epochs | CPU s | mIoU box | mIoU point |\n|---|---|---|---|---|")
        rows = of_scene.groupby("recipe", sort=False)
        best = {p: rows[p].mean().idxmax() for p in ("box", "point")}
        for recipe, found in rows:
            cells = [
                f"{'**' if best[p] == recipe else ''}{found[p].mean():.3f}"
                f"{'**' if best[p] == recipe else ''} ± {(found[p].max() - found[p].min()) / 2:.3f}"
                for p in ("box", "point")
            ]
            seconds = found["cpu_seconds"].mean()
            print(f"| {recipe} | {found['epochs'].iloc[0]} | {seconds:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
