"""Scenes and recipes that `recipes.py` compares, and their runs."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.paths import RunPaths

NUCLEI = Path("../shared/data/nuclei")
NOTHING = {"focal": 0.0, "dice": 0.0, "iou": 0.0}
# From random weights, focal loss twenty times as strong gives empty masks for epochs.
LOSSES = {"focal": 1.0, "dice": 1.0, "iou": 1.0}


@dataclass(frozen=True)
class Scene:
    """Data of a student.

    data: `demo` (600 synthetic images of 128 pixels) or `nuclei` (64 images at 256 pixels).
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
    """Training recipe. distil: settings of the distilling stage; None for fine-tuning alone.

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
        "click_target": "teacher",
    },
}
ALONE = {name: Recipe(name) for name in DISTIL}
BEFORE = {f"{name}, then fine-tune": Recipe(name, 0.5) for name in DISTIL}
FINETUNE = {"fine-tune": Recipe(None, unlabelled=False)}
RECIPES = FINETUNE | ALONE | BEFORE
FEW = {
    **FINETUNE,
    "mse+cosine on the few, then fine-tune": Recipe("mse+cosine", 0.5, unlabelled=False),
    **{
        name: BEFORE[name]
        for name in BEFORE
        if name.startswith(("mse+cosine", "+prompts", "+hard"))
    },
}
SCHEDULES = {
    f"mse+cosine for {share:.0%}, then fine-tune": Recipe("mse+cosine", share)
    for share in (0.25, 0.75)
}
WEAK = {name: (FINETUNE | BEFORE)[name] for name in ("fine-tune", "mse+cosine, then fine-tune")}
SCENES: dict[str, tuple[Scene, dict[str, Recipe]]] = {
    "demo, 30 of 600 with masks": (Scene("demo", 12, labelled=30, seconds=120), FEW),
    "nuclei, 8 of 64 with masks": (Scene("nuclei", 40, labelled=8, seconds=90), FEW),
    "nuclei": (Scene("nuclei", 40, seconds=90), RECIPES),
    "demo": (Scene("demo", 12), RECIPES | SCHEDULES),
    "demo, weak teacher": (Scene("demo", 3), WEAK),
}


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
    """Return the directory of the scene's images; create them if they are missing."""
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


def slug(text: str) -> str:
    """The text as a name of files."""
    return "".join(c if c.isalnum() else "_" for c in text).strip("_")
