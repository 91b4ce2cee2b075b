"""A directory in which the commands of the pages can be typed: the repository, and a small run."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobile_sam.__main__ import main
from mobile_sam.config.catalog import KNOWN_CHECKPOINTS
from mobile_sam.data.masks import encode
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original
from mobile_sam.system.atomic_files import file_digest
from tests.helpers.commands import ROOT
from tests.helpers.finished_runs import RUN, copy_run
from tests.helpers.images import draw_image
from tests.helpers.runs import DISTIL_ONLY, tiny_settings

CODE = ("mobile_sam", "configs", "workflow", "profiles", "benchmarks")
SETTINGS = {
    "run_name": "my_run",
    "num_epochs": 2,
    "benchmark_repeats": 1,
    "report_examples": 1,
    "val_mask_dir": "data/val.json",
    "protocols": ["box", "point"],
    "stage_schedule": [
        {"name": "distill", "start_epoch": 0, "end_epoch": 1, "distillation": True}
        | {"loss_weights": DISTIL_ONLY},
        {"name": "finetune", "start_epoch": 1, "end_epoch": 2, "distillation": False},
    ],
}


@pytest.fixture(scope="module")
def workplace(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: a copy of the code, data, and the finished run `my_run` of 64 pixels.

    Known weights are those of 64-pixel models, in a cache of their own.
    """
    directory = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MOBILE_SAM_CACHE", str(directory / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in CODE:
            shutil.copytree(ROOT / name, name)
        shutil.copy(ROOT / "Snakefile", "Snakefile")
        shutil.copytree(scenes, "data")
        shutil.copytree("profiles/slurm", "my_cluster")
        _write_data()
        _write_weights(patch)
        _finish_the_run()
        yield directory


def _write_data() -> None:
    for name in ("my", "my_images", "photos"):
        Path(name).mkdir()
    for kind in ("image", "mask"):
        (Path("my") / f"{kind}s").symlink_to(Path("data/val", kind).resolve())
    files = ("image.png", "other.png", "my_images/1.png", "my_images/2.png", "photos/1.jpg")
    for number, name in enumerate((*files, "photo.jpg")):
        draw_image(Path(name), 240, 200 + number, seed=number)

    Path("data/val.json").write_text(json.dumps(_as_coco(Path("data/val"))))
    Path("boxes.json").write_text("[]")
    Path("labels").mkdir()
    Path("labels/1.txt").write_text("0 0.5 0.5 0.25 0.25 0.9\n")
    image = {"id": 1, "file_name": "1.jpg", "width": 240, "height": 204}
    box = {"image_id": 1, "category_id": 1, "bbox": [90, 75, 60, 50]}
    found = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "thing"}]}
    Path("detected.json").write_text(json.dumps(found))


def _as_coco(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """The masks of `write_scenes` as COCO has them, which is what a detector's boxes need."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, path in enumerate(sorted((directory / "image").iterdir())):
        with Image.open(path) as image:
            size = {"width": image.width, "height": image.height}
        images.append({"id": number, "file_name": path.name, **size})
        for file in sorted((directory / "mask" / path.stem).iterdir()):
            mask = np.asarray(Image.open(file)) > 0
            code = {"size": mask.shape, "counts": encode(mask).decode()}
            facts = {"image_id": number, "category_id": 1, "segmentation": code}
            annotations.append({"id": len(annotations), **facts})
    categories = [{"id": 1, "name": "thing"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_weights(patch: pytest.MonkeyPatch) -> None:
    """Put small weights where the pages have files, and where known ones would be downloaded to."""
    model = to_original(build_sam_model("tiny_sam", 64))
    Path("cache").mkdir()
    for name, known in list(KNOWN_CHECKPOINTS.items()):
        path = Path("cache", known.filename)
        torch.save(model, path)
        patch.setitem(KNOWN_CHECKPOINTS, name, replace(known, sha256=file_digest(path)))
    for path in (Path("mobile_sam.pt"), Path("sam_vit_b.pth"), Path("other/weights.pt")):
        path.parent.mkdir(exist_ok=True)
        shutil.copy("cache/mobile_sam.pt", path)


def _finish_the_run() -> None:
    settings = tiny_settings(Path("data"), Path("results"), **SETTINGS)
    for path in (Path("configs/my_run.json"), RUN / "run.json", Path("my_run.json")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    Path("nuclei.json").write_text(json.dumps(settings))
    for verb in ("index", "extract", "train", "export", "validate"):
        more = ["--workers", "1"] if verb == "index" else []
        assert main([verb, "--config", str(RUN / "run.json"), *more]) == 0
    copy_run("distill_then_finetune-demo")
    copy_run("my_run-lr0.001-seed2")
    manifest = RUN.parent / "sweeps" / "my_run" / "sweep.json"
    manifest.parent.mkdir(parents=True)
    values = {"my_run-lr0.001-seed2": {"learning_rate": 0.001, "seed": 2}}
    manifest.write_text(json.dumps({"variants": values}))
