"""Compare ways to train a student in equal time, as sweeps: the tables of docs/recipes.md.

    python benchmarks/recipes.py run   [--scenes NAME ...] [--seconds 60] [--seeds 3]
    python benchmarks/recipes.py table

`run` measures what an epoch of each kind of stage takes, gives each recipe the epochs that fit into
the same time, and trains all of them with the workflow, two jobs of one thread at a time; it may be
ended and begun again. The results of a scene replace its rows in benchmarks/recipes.csv, which
`table` prints. Students start from a random encoder and the teacher's decoder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mobile_sam.config.load import resolve
from mobile_sam.config.schedule import normalise
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.paths import RunPaths

ROOT = Path(__file__).parents[1]
NUCLEI = ROOT.parent / "shared" / "data" / "nuclei"
TABLE = ROOT / "benchmarks" / "recipes.csv"

# From random weights, focal loss twenty times as strong gives empty masks for epochs.
LOSSES = {"focal": 1.0, "dice": 1.0, "iou": 1.0}
NO_MASKS = {"distillation": True, "loss_weights": dict.fromkeys(LOSSES, 0.0)}
FEATURES = {"mse": 1.0, "cosine": 1.0}
ANSWERS = FEATURES | {"mask_bce": 1.0, "mask_dice": 1.0, "predicted_iou": 1.0}
STAGES: dict[str, dict[str, Any]] = {
    "finetune": {"distillation": False, "loss_weights": LOSSES},
    "features": NO_MASKS | {"distill_losses": FEATURES},
    "features_of_few": NO_MASKS | {"distill_losses": FEATURES},
    "relation": NO_MASKS | {"distill_losses": FEATURES | {"relation": 1.0}},
    "prompts": NO_MASKS | {"distill_losses": ANSWERS},
    "clicks": NO_MASKS | {"distill_losses": ANSWERS, "prompt_rounds": 2, "click_target": "teacher"},
}
LABELLED_ONLY = {"finetune", "features_of_few"}  # stages that see no image without masks

Recipe = dict[str, float]  # share of the time of each stage
FINETUNE: Recipe = {"finetune": 1}
ALONE: dict[str, Recipe] = {
    name: {name: 1} for name in ("features", "relation", "prompts", "clicks")
}
THEN: dict[str, Recipe] = {
    f"{name}-finetune": {name: 0.5, "finetune": 0.5}
    for name in ("features", "features_of_few", "relation", "prompts", "clicks")
}
SHARES: dict[str, Recipe] = {
    f"features{share}-finetune": {"features": share / 100, "finetune": 1 - share / 100}
    for share in (25, 75)
}
RECIPES = {"finetune": FINETUNE} | ALONE | THEN | SHARES


class Scene(NamedTuple):
    """Data of a student, and the names of the recipes that are compared on it.

    data: `cells` (500 synthetic images of 128 pixels) or `nuclei` (64 images at 256 pixels).
    teacher_epochs: how long the teacher was trained, on all images with their masks.
    labelled: images whose masks the student is given; None for all. The others are there without.
    """

    data: str
    teacher_epochs: int
    recipes: tuple[str, ...]
    labelled: int | None = None


FEW = ("finetune", *(name for name in THEN if name != "relation-finetune"))
ALL = ("finetune", *ALONE, *(name for name in THEN if name != "features_of_few-finetune"))
SCENES = {
    "cells_few": Scene("cells", 8, FEW, labelled=30),
    "nuclei_few": Scene("nuclei", 40, FEW, labelled=8),
    "nuclei": Scene("nuclei", 40, ALL),
    "cells": Scene("cells", 8, (*ALL, *SHARES)),
    "cells_weak": Scene("cells", 2, ("finetune", "features-finetune")),
}


def main() -> None:
    """Run the scenes, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), choices=list(SCENES))
    parser.add_argument("--seconds", type=float, default=60.0, help="training of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("results/recipes"))
    args = parser.parse_args()
    work, names = args.work.resolve(), args.scenes if args.action == "run" else ()
    costs = {name: epoch_costs(work, name) for name in names}
    for name in names:
        run(work, name, costs[name], args.seconds, args.seeds)
    print_tables(pd.read_csv(TABLE))


def epoch_costs(work: Path, name: str) -> dict[str, float]:
    """Return the seconds of an epoch of each kind of stage in a scene: the median of two."""
    kinds = {kind for recipe in SCENES[name].recipes for kind in RECIPES[recipe]}
    once = {kind: values({kind: 1}, dict.fromkeys(kinds, 1.0), 3) for kind in sorted(kinds)}
    run_name = f"{name}_epochs"
    workflow(work, run_name, settings(work, name) | {"sweep": {"recipes": once}})
    costs = {}
    for kind in once:
        paths = RunPaths(resolve(str(work / f"{run_name}.json"), None, {})[f"{run_name}-{kind}"])
        metrics = pd.read_csv(paths.metrics(normalise(paths.config)[0]))
        costs[kind] = float(metrics["seconds"][1:].median())
    return costs


def run(work: Path, name: str, costs: dict[str, float], seconds: float, seeds: int) -> None:
    """Train and compare the recipes of a scene, and keep its table."""
    chosen = {of: values(RECIPES[of], costs, seconds) for of in SCENES[name].recipes}
    sweep = {"sweep": {"recipes": chosen}, "replicates": seeds}
    workflow(work, name, settings(work, name) | sweep)
    report = work / "results/recipes/sweeps" / name / "report"
    rows, points, times = (
        pd.read_csv(report / f"{table}.csv").set_index("combination")
        for table in ("variants", "variants_point", "time")
    )
    rows = rows.assign(scene=name, seconds=seconds, minutes=times["minutes"], point=points["miou"])
    for recipe, of in chosen.items():
        lengths = [str(e["end_epoch"] - e["start_epoch"]) for e in of["stage_schedule"]]
        rows.loc[recipe, "epochs"] = "+".join(lengths)
    others = pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame(columns=["scene"])
    table = pd.concat([others[others["scene"] != name], rows.drop(columns="recipe").reset_index()])
    table.to_csv(TABLE, index=False, float_format="%.4f")


def values(recipe: Recipe, costs: dict[str, float], seconds: float) -> dict[str, Any]:
    """Return the settings of a recipe that takes some seconds. costs: seconds of an epoch."""
    schedule: list[dict[str, Any]] = []
    for kind, share in recipe.items():
        start = schedule[-1]["end_epoch"] if schedule else 0
        end = start + max(1, round(share * seconds / costs[kind]))
        schedule.append(STAGES[kind] | {"start_epoch": start, "end_epoch": end})
    found: dict[str, Any] = {"num_epochs": schedule[-1]["end_epoch"], "stage_schedule": schedule}
    return found | ({"unlabelled_img_dir": None} if recipe.keys() <= LABELLED_ONLY else {})


def workflow(work: Path, name: str, run: dict[str, Any]) -> None:
    """Run the workflow with these settings, and show its log."""
    path = work / f"{name}.json"
    path.write_text(json.dumps(run))
    command = ["-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)]
    limits = ["--cores", "2", "--max-threads", "1", "--quiet", "rules", "--config", f"run={path}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command, *limits], check=True, env=environment)


def settings(work: Path, name: str) -> dict[str, Any]:
    """Return the settings of a scene's runs, and write those of its teacher."""
    scene = SCENES[name]
    every = data(work, scene._replace(labelled=None))
    size, batch, objects = (128, 4, 6) if scene.data == "cells" else (256, 4, 4)
    common = {
        "project_name": "recipes",
        "output_dir": str(work / "results"),
        "val_img_dir": str(every / "val" / "image"),
        "val_mask_dir": str(every / "val" / "mask"),
        "img_size": size,
        "checkpoint": None,
        "batch_size": batch,
        "objects_per_image": objects,
        "learning_rate": 1e-3,
        "loss_weights": LOSSES,
        "freeze_batchnorm": False,
        "val_images": 0,
        "protocols": ["box", "point"],
        "benchmark_repeats": 0,
    }
    teacher = work / f"teacher_{scene.data}_{scene.teacher_epochs}.json"
    own = {"model_type": "demo_teacher", "num_epochs": scene.teacher_epochs}
    teacher.write_text(json.dumps(common | own | training_data(every)))
    own = {"model_type": "demo_student", "teacher_checkpoint": f"run:{teacher}"}
    few = data(work, scene)
    if scene.labelled is not None:
        own |= {"unlabelled_img_dir": str(few / "unlabelled")}
    return common | own | training_data(few) | {"decoder_from_teacher": True}


def training_data(directory: Path) -> dict[str, str]:
    """Return the keys of a directory's training images."""
    places = {"train_img_dir": "train/image", "train_mask_dir": "train/mask"}
    return {key: str(directory / place) for key, place in places.items()}


def data(work: Path, scene: Scene) -> Path:
    """Return the directory of the scene's images; create them if they are missing."""
    target = work / "data" / f"{scene.data}_{scene.labelled or 'all'}"
    if target.is_dir():
        return target
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    if scene.labelled is not None:
        every = data(work, scene._replace(labelled=None)) / "train"
        for number, image in enumerate(sorted((every / "image").iterdir())):
            known = number < scene.labelled
            masks = [mask for mask in (every / "mask").iterdir() if mask.stem == image.stem]
            places = {image: "train/image" if known else "unlabelled"}
            places |= {mask: "train/mask" for mask in masks if known}
            for source, place in places.items():
                (unfinished / place).mkdir(parents=True, exist_ok=True)
                (unfinished / place / source.name).symlink_to(source)
    elif scene.data == "cells":
        write_scenes(unfinished / "train", 500, 128, seed=0, objects="cells")
        write_scenes(unfinished / "val", 100, 128, seed=1, objects="cells")
    else:
        shutil.copytree(NUCLEI, unfinished)
    return unfinished.rename(target)


def print_tables(table: pd.DataFrame) -> None:
    """Print a table for each scene in Markdown, the best recipe first."""
    for name, rows in table.groupby("scene", sort=False):
        scene = SCENES[str(name)]
        masks = f", {scene.labelled} images with masks" if scene.labelled else ""
        print(
            f"\n**{name}**: {scene.data}{masks}; a teacher of {scene.teacher_epochs} epochs; "
            f"{rows['seconds'].iloc[0]:.0f} s for each run, {rows['seeds'].iloc[0]:.0f} seeds\n"
        )
        print("| recipe | epochs | minutes | mIoU box | 95 % interval | vs. best | p | point |")
        print("|---|---|---|---|---|---|---|---|")
        for _, row in rows.iterrows():
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            cells = [row["combination"], row["epochs"], f"{row['minutes']:.1f}"]
            cells += [f"{row['miou']:.3f}", interval, f"{row['difference']:+.3f}"]
            cells += [f"{row['adjusted_p']:.2g}", f"{row['point']:.3f}"]
            print(f"| {' | '.join(cells)} |".replace("+nan", "").replace("nan", ""))


if __name__ == "__main__":
    main()
