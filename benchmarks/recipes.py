"""Compares ways to train a student in equal time: the table of docs/recipes.md.

    python benchmarks/recipes.py run   [--scenes NAME ...] [--seeds 3] [--out results/recipes.csv]
    python benchmarks/recipes.py table [--out results/recipes.csv]

`run` trains what the CSV does not hold yet, two runs at a time with one thread each, and adds a row
for each: it may be ended and begun again. Every run has the same CPU seconds for all its stages,
turned into epochs by what an epoch of each kind of stage was measured to take; `table` prints means
and spreads. Runs start from a random encoder and the teacher's decoder. mIoU is that of
`validate`, at the images' own size.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mobile_sam.config import RunConfig, parse_config
from mobile_sam.data.indexing import index_dataset
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.extraction import extract_features, finish_extraction, plan_extraction
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import normalise
from mobile_sam.training.export import export_weights
from mobile_sam.training.run import train_run
from mobile_sam.validation import validate

NUCLEI = Path("../shared/data/nuclei")
NOTHING = {"focal": 0.0, "dice": 0.0, "iou": 0.0}
LOSSES = {"focal": 20.0, "dice": 1.0, "iou": 1.0}


@dataclass(frozen=True)
class Scene:
    """What a student has to learn from.

    data: `demo` (600 synthetic images of 128 pixels) or `nuclei` (64 images, 256 pixels).
    teacher_epochs: how long the teacher was trained, on all images with their masks.
    labelled: images whose masks the student is given; None for all. The others are there without.
    seconds: CPU time of a run.
    """

    data: str
    teacher_epochs: int
    labelled: int | None = None
    seconds: float = 60.0


@dataclass(frozen=True)
class Recipe:
    """How it learns. distil: settings of the distilling stage; None for fine-tuning alone.

    share: of the time that distilling takes; 1 for no fine-tuning.
    unlabelled: whether it also looks at images without masks.
    """

    distil: str | None
    share: float = 1.0
    unlabelled: bool = True


FEATURES: dict[str, float] = dict.fromkeys(("mse", "cosine"), 0.0)
ANSWERS = {"mask_bce": 1.0, "mask_dice": 1.0, "predicted_iou": 1.0}
DISTIL: dict[str, dict[str, Any]] = {
    "mse": {"distill_losses": FEATURES | {"mse": 1.0}},
    "mse+cosine": {"distill_losses": {"mse": 1.0, "cosine": 1.0}},
    "+relation": {"distill_losses": {"mse": 1.0, "cosine": 1.0, "relation": 1.0}},
    "+prompts": {"distill_losses": {"mse": 1.0, "cosine": 1.0, **ANSWERS}},
    "+hard prompts": {
        "distill_losses": {"mse": 1.0, "cosine": 1.0, **ANSWERS},
        "prompt_rounds": 2,
        "clicks": "teacher",
    },
}
ALONE = {name: Recipe(name) for name in DISTIL}
BEFORE = {f"{name}, then fine-tune": Recipe(name, 0.5) for name in DISTIL}
FINETUNE = {"fine-tune": Recipe(None)}
RECIPES = FINETUNE | ALONE | BEFORE
LABELLED_ONLY = {
    f"{name}, then fine-tune, images with masks only": Recipe(name, 0.5, unlabelled=False)
    for name in ("mse+cosine",)
}
FEW = FINETUNE | LABELLED_ONLY | {k: r for k, r in BEFORE.items() if r.distil != "+relation"}
SCHEDULES = {
    f"mse+cosine for {share:.0%}, then fine-tune": Recipe("mse+cosine", share)
    for share in (0.25, 0.75)
}
SCENES: dict[str, tuple[Scene, dict[str, Recipe]]] = {
    "demo": (Scene("demo", 24), RECIPES | SCHEDULES),
    "demo, weak teacher": (Scene("demo", 4), FINETUNE | {k: BEFORE[k] for k in list(BEFORE)[1:2]}),
    "demo, 30 of 600 with masks": (Scene("demo", 24, labelled=30), FEW),
    "nuclei": (Scene("nuclei", 60, seconds=90), RECIPES),
    "nuclei, 8 of 64 with masks": (Scene("nuclei", 60, labelled=8, seconds=90), FEW),
}


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
    """What stages there are, by their cost: (distil, unlabelled)."""
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
    """Where the measured seconds of an epoch are kept."""
    kind = slug(distil or "fine-tune") + ("-unlabelled" if unlabelled and distil else "")
    return work / "costs" / slug(name) / f"{kind}.json"


def stage(distil: str | None, start: int, end: int) -> dict[str, Any]:
    """An entry of the schedule."""
    epochs: dict[str, Any] = {"start_epoch": start, "end_epoch": end}
    if distil is None:
        return epochs | {"distillation": False, "loss_weights": LOSSES}
    return epochs | {"distillation": True, "loss_weights": NOTHING} | DISTIL[distil]


def teacher_config(work: Path, scene: Scene) -> RunConfig:
    """The run of the teacher."""
    own = {
        "run_name": f"teacher-{scene.teacher_epochs}",
        "output_dir": str(work / "teachers" / scene.data),
        "model_type": "demo_teacher",
        "num_epochs": scene.teacher_epochs,
    }
    everything = replace(scene, labelled=None)
    return parse_config(common(work, everything) | own, "benchmark")


def student_config(
    work: Path, name: str, run_name: str, stages: list[dict[str, Any]], seed: int, unlabelled: bool
) -> RunConfig:
    """The run of a student."""
    scene = SCENES[name][0]
    own: dict[str, Any] = {
        "run_name": run_name,
        "output_dir": str(work / "students" / slug(name)),
        "model_type": "demo_student",
        "teacher_checkpoint": str(RunPaths(teacher_config(work, scene)).weights),
        "teacher_model_type": "demo_teacher",
        "decoder_from_teacher": True,
        "num_epochs": stages[-1]["end_epoch"],
        "stage_schedule": stages,
        "seed": seed,
    }
    if unlabelled and scene.labelled is not None and any(s["distillation"] for s in stages):
        own["unlabelled_img_dir"] = str(images(work, scene) / "unlabelled")
    return parse_config(common(work, scene) | own, "benchmark")


def common(work: Path, scene: Scene) -> dict[str, Any]:
    """Settings that teachers and students share."""
    size, objects, batch = (128, 4, 8) if scene.data == "demo" else (256, 4, 4)
    root = images(work, scene)
    return {
        "train_img_dir": str(root / "train" / "image"),
        "train_mask_dir": str(root / "train" / "mask"),
        "val_img_dir": str(images(work, replace(scene, labelled=None)) / "val" / "image"),
        "val_mask_dir": str(images(work, replace(scene, labelled=None)) / "val" / "mask"),
        "img_size": size,
        "checkpoint": None,
        "batch_size": batch,
        "objects_per_image": objects,
        "learning_rate": 1e-3,
        "loss_weights": LOSSES,
        "freeze_batchnorm": False,
        "val_images": 0,
    }


def images(work: Path, scene: Scene) -> Path:
    """Where the scene's images lie; they are put there when they do not."""
    everything = work / "data" / scene.data / "all"
    if not everything.is_dir():
        unfinished = everything.with_name(f"all.{os.getpid()}")
        if scene.data == "demo":
            write_scenes(unfinished / "train", 600, 128, seed=0)
            write_scenes(unfinished / "val", 100, 128, seed=1)
        else:
            shutil.copytree(NUCLEI, unfinished)
        unfinished.rename(everything)
    some = work / "data" / scene.data / str(scene.labelled)
    if scene.labelled is None or some.is_dir():
        return everything if scene.labelled is None else some
    unfinished = some.with_name(f"{scene.labelled}.{os.getpid()}")
    for number, path in enumerate(sorted((everything / "train" / "image").iterdir())):
        known = number < scene.labelled
        target = unfinished / ("train/image" if known else "unlabelled") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        if known:
            masks = everything / "train" / "mask" / path.stem
            shutil.copytree(masks, unfinished / "train" / "mask" / path.stem)
    unfinished.rename(some)
    return some


def index(config: RunConfig) -> None:
    """Index the data of a run, unless that is done."""
    paths = RunPaths(config)
    if not paths.index.is_file():
        index_dataset(paths.sources, paths.index, config.data, config.seed)


def miou(config: RunConfig) -> dict[str, float]:
    """Of the last stage, by prompt."""
    table = pd.read_parquet(RunPaths(config).validation(normalise(config)[-1].directory))
    means = table.groupby("prompt")["iou"].mean()
    return {prompt: round(float(means[prompt]), 4) for prompt in ("box", "point")}


def slug(text: str) -> str:
    """The text as a name of files."""
    return "".join(c if c.isalnum() else "_" for c in text).strip("_")


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
