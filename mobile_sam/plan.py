"""What Snakemake must know before it plans: whether inputs exist, and whether they changed."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mobile_sam.config import DIRECTORY_KEYS, ConfigError, RunConfig
from mobile_sam.datasets import check_available, known_dataset
from mobile_sam.fetch import KNOWN_CHECKPOINTS, FetchError, check_reachable
from mobile_sam.files import write_json
from mobile_sam.layout import BOX_FILLED, START, RunPaths, compared, needs_features
from mobile_sam.runs import Runs, known_overlays
from mobile_sam.teachers import named_teachers, random_number, teacher_configs, teacher_key


def check_inputs(runs: Runs) -> None:
    """Raise ConfigError unless images, masks and weights of all runs are there or can be had.

    The message says what to put where, and that an overlay brings its own data.
    """
    for config in runs.named:
        check_detections(config)
    for config in runs.all:
        problems = [*_missing_directories(config), *_missing_weights(config)]
        if problems:
            overlays = " or ".join(f"overlay={name}" for name in known_overlays())
            raise ConfigError(
                f"run {config.run_name!r}: {'; '.join(problems)}. "
                f"To try the run without data or weights of your own, add {overlays}"
            )


def _missing_directories(config: RunConfig) -> Iterator[str]:
    unlabelled = config.unlabelled_img_dir
    if unlabelled is not None and not Path(unlabelled).is_dir():
        yield (
            f"unlabelled_img_dir: {unlabelled!r} is not a directory; put images without masks "
            "there or set unlabelled_img_dir to null"
        )
    dataset = known_dataset(config)
    if dataset is not None:
        try:
            check_available(dataset)
        except FetchError as error:
            yield str(error)
        return
    for key in DIRECTORY_KEYS:
        value = getattr(config, key)
        if value is None or Path(value).is_dir():
            continue
        if "mask" not in key:
            yield f"{key}: {value!r} is not a directory; put images there or set {key}"
        elif not (value.lower().endswith(".json") and Path(value).is_file()):
            yield (
                f"{key}: {value!r} is neither a directory nor a COCO file; put masks there, "
                f"<image>/*.png or label maps <image>.png, or set {key} (docs/data.md has all "
                "formats)"
            )
    if config.data.subset is not None and not Path(config.data.subset).is_file():
        yield f"data.subset: there is no file {config.data.subset!r}; write the ids of images there"


def check_detections(config: RunConfig) -> None:
    """Raise ConfigError unless the boxes of `detections` have a COCO file to be measured by."""
    if config.detections is None:
        return
    if not Path(config.detections).is_file():
        raise ConfigError(
            f"detections: there is no file {config.detections!r}; write a detector's boxes there, "
            "as JSON of COCO's results, or set detections to null"
        )
    if not (config.val_mask_dir or "").lower().endswith(".json"):
        raise ConfigError(
            f"detections: {config.detections!r} needs classes and image ids of a COCO file, and "
            f"val_mask_dir is {config.val_mask_dir!r}; give the COCO file there"
        )


def _missing_weights(config: RunConfig) -> Iterator[str]:
    asked = {"checkpoint": config.checkpoint}
    for number, teacher in enumerate(teacher_configs(config)):
        asked[teacher_key(number, "checkpoint")] = teacher.teacher_checkpoint
    asked |= {f"compare[{number}]": value for number, value in enumerate(config.compare)}
    compared(config)
    for key, value in asked.items():
        if value is None or value.startswith("run:"):
            continue
        no_file = value == "imagenet" or random_number(value) is not None
        if no_file and not key.startswith("compare"):
            continue
        if value in KNOWN_CHECKPOINTS:
            try:
                check_reachable(value)
            except FetchError as error:
                yield f"{key}: {error}"
        elif not Path(value).is_file():
            known = ", ".join(KNOWN_CHECKPOINTS)
            yield f"{key}: there is no file {value!r}; give a path or one of {known}"


def known_checkpoints(runs: Runs) -> set[str]:
    """Known checkpoints that any of the runs starts from or learns from."""
    asked = {config.checkpoint for config in runs.all}
    asked |= {t.teacher_checkpoint for config in runs.all for t in teacher_configs(config)}
    asked |= {weights for config in runs.all for weights in config.compare}
    return {name for name in asked if name in KNOWN_CHECKPOINTS}


def fingerprint(config: RunConfig) -> str:
    """Digest of names, sizes and times of all image and mask files, not of directories.

    Touching a directory changes nothing; adding, removing or rewriting a file does. Synthetic
    data and known data sets have a constant part: what they hold is known beforehand. With
    `data.version` no file is looked at: of millions that takes minutes.
    """
    if config.data.version is not None:
        return f"version {config.data.version}"
    sources, known = RunPaths(config).sources, _known_content(config)
    if known:
        places = [*sources.get("unlabelled", ())]
        if not places:
            return known
    else:
        places = [place for pair in sources.values() for place in dict.fromkeys(pair)]
        if config.data.subset is not None:
            places.append(Path(config.data.subset))
    digest = hashlib.sha256(known.encode())
    for place in places:
        for line in _files(place, "") if place.is_dir() else [_line("", place.stat())]:
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _known_content(config: RunConfig) -> str:
    """What stands for images and masks that are known beforehand; empty for others."""
    if config.train_img_dir is None:
        return RunPaths(config).dataset.name
    dataset = known_dataset(config)
    return "" if dataset is None else dataset.sha256


def _files(directory: Path, prefix: str) -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                yield from _files(Path(entry.path), f"{name}/")
            else:
                yield _line(name, entry.stat())


def _line(name: str, stat: os.stat_result) -> str:
    return f"{name} {stat.st_size} {stat.st_mtime_ns}\n"


def results_table(config: RunConfig) -> str:
    """The report's path and a short table of mIoU, as text for a terminal."""
    report = RunPaths(config).report
    with (report / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["prompt"] in _SHOWN]
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        table.setdefault(row["checkpoint"], {})[row["prompt"]] = f"{float(row['miou']):.3f}"
    width = max(len(name) for name in [*table, "checkpoint"])
    lines = [f"{'checkpoint':<{width}}" + "".join(f"{f'mIoU {p}':>15}" for p in prompts)]
    for name, cells in table.items():
        lines.append(f"{name:<{width}}" + "".join(f"{cells.get(p, '-'):>15}" for p in prompts))
    return "\n".join([f"run {config.run_name}", *lines, f"report: {report / 'index.html'}"])


def report_pictures(config: RunConfig) -> dict[str, str]:
    """What a report always draws with these settings: names of PNGs, and what each shows."""
    pictures = {
        "results": "results",
        "differences": "differences beyond chance",
        "sizes": "by size of the segments",
        "iou_histogram": "distribution of IoU",
        "calibration": "calibration of the predicted IoU",
        "thresholds": "threshold sweep",
        "epochs": "epochs",
        "data": "data",
    }
    if {"clicks", "noc"} & set(config.protocols):
        pictures["clicks"] = "corrective clicks"
    if config.cost_repeats:
        pictures["cost"] = "quality and latency"
    if config.report_examples:
        pictures |= {
            f"gallery_{group}": f"images: {text}"
            for group, text in (
                ("best", "the best"),
                ("median", "the median"),
                ("worst", "the worst"),
                ("worse", "where a stage made it worse"),
            )
        }
    return pictures


def comparison_pictures(configs: Sequence[RunConfig]) -> dict[str, str]:
    """As `report_pictures`, of the report that compares several runs."""
    pictures = {k: v for config in configs for k, v in report_pictures(config).items()}
    gallery = configs[0].report_examples > 0
    return {k: v for k, v in pictures.items() if gallery or not k.startswith("gallery_")}


_SHOWN = ("box", "point", "clicks_3")


def shared_settings(config: RunConfig) -> dict[Path, dict[str, Any]]:
    """Settings files of the jobs whose results runs share, by path.

    They hold nothing of the run that happens to ask first, so that another run finds the work
    of such a job done.
    """
    settings = config.model_dump(mode="json")
    place = [
        "project_name",
        "output_dir",
        "num_workers",
        "seed",
        "synthetic",
        "data",
        "unlabelled_img_dir",
        *DIRECTORY_KEYS,
    ]
    dataset = {key: settings[key] for key in place} | {"run_name": "dataset"}
    files = {RunPaths(config).dataset_settings: dataset}
    if needs_features(config):
        for teacher in teacher_configs(config):
            files[RunPaths(teacher).features_settings] = dataset | _store_settings(teacher)
    return files


def _store_settings(config: RunConfig) -> dict[str, Any]:
    """What the store of the first teacher depends on, beside the data set."""
    keys = {"teacher_checkpoint", "teacher_model_type", "distill_feature_level", "img_size"}
    keys |= {"train_img_dir_teacher_features", "feature_dtype", "feature_views", "extract_jobs"}
    # No student takes part, so the teacher stands in for it.
    nobody = {"run_name": "features", "use_distill": True, "model_type": config.teacher_model_type}
    return config.model_dump(mode="json", include=keys) | nobody


def write_settings(runs: Runs) -> None:
    """Write what jobs read: `run.json` of each run, and the settings of shared jobs."""
    for config in runs.all:
        files = shared_settings(config)
        files[RunPaths(config).settings] = config.model_dump(mode="json", exclude={"schema_file"})
        for path, content in files.items():
            if _content(path) != content:
                write_json(path, content)


def _content(path: Path) -> Any:
    """What a settings file holds; None where it is missing, or was cut off by a power failure."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def validation_settings(config: RunConfig, what: str) -> str:
    """Sorted-key JSON of the settings that the validation of `what` depends on."""
    teachers = named_teachers(config)
    keys = set(_MEASURING) if what != BOX_FILLED else set()
    if what == START:
        model = {"model_type", "img_size", "seed", "iou_head_depth", "iou_head_hidden_dim"}
        keys |= model | {"checkpoint", "decoder_from_teacher"}
    if what in teachers:
        config = teachers[what]
        keys |= {"teacher_checkpoint", "teacher_model_type", "img_size", "seed"}
    if what in compared(config):
        keys.add("img_size")
    return json.dumps({key: getattr(config, key) for key in keys}, sort_keys=True)


def cost_settings(config: RunConfig) -> str:
    """Sorted-key JSON of the settings that the cost of a run's models depends on."""
    keys = ("model_type", "img_size", "iou_head_depth", "iou_head_hidden_dim", "cost_repeats")
    settings = {key: getattr(config, key) for key in (*keys, "compare")}
    teachers = {name: t.teacher_model_type for name, t in named_teachers(config).items()}
    return json.dumps(settings | {"teachers": teachers}, sort_keys=True)


_MEASURING = (
    "mask_threshold",
    "thresholds",
    "protocols",
    "automatic_images",
    "automatic_points",
    "detections",
)


def rule_name(text: str) -> str:
    """`text` as part of the name of a rule."""
    return re.sub(r"\W", "_", text)
