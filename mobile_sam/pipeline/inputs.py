"""Checks that images, masks and weights of runs exist or can be downloaded."""

import os
from collections.abc import Iterator
from pathlib import Path

from mobile_sam.config.catalog import KNOWN_CHECKPOINTS, known_dataset
from mobile_sam.config.load import Runs, known_overlays
from mobile_sam.config.run import DIRECTORY_KEYS, RunConfig
from mobile_sam.config.teachers import random_number, shape_steps, teacher_configs, teacher_key
from mobile_sam.download.datasets import check_available
from mobile_sam.download.files import FetchError, check_reachable, checkpoint_path
from mobile_sam.paths import RunPaths, extra_checkpoints
from mobile_sam.pipeline.fingerprints import keep_fingerprint
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.paths import directory_problem, file_problem, output_problem


def check_inputs(runs: Runs) -> None:
    """Raise ConfigError unless images, masks and weights of all runs exist or can be downloaded.

    The message names the missing files and the keys that set them, and mentions overlays, which
    have data of their own. The fingerprint of each data set is stored for `fingerprint_once`.
    """
    for config in runs.named:
        check_detections(config)
    for config in runs.all:
        problems = [*_missing_directories(config), *_missing_weights(config)]
        problems += _unwritable(config)
        if problems:
            overlays = " or ".join(f"overlay={name}" for name in known_overlays())
            raise ConfigError(
                f"run {config.run_name!r}: {'; '.join(problems)}. "
                f"To try the run without data or weights of your own, add {overlays}"
            )
    for config in {RunPaths(config).dataset: config for config in runs.all}.values():
        keep_fingerprint(config)


def _missing_directories(config: RunConfig) -> Iterator[str]:
    unlabelled = config.unlabelled_img_dir
    if unlabelled is not None:
        remedy = "put images without masks there or set unlabelled_img_dir to null"
        yield from _wrong_directory("unlabelled_img_dir", unlabelled, remedy)
    dataset = known_dataset(config)
    if dataset is not None:
        try:
            check_available(dataset)
        except FetchError as error:
            yield str(error)
        return
    for key in DIRECTORY_KEYS:
        value = getattr(config, key)
        if value is None:
            continue
        if "mask" not in key:
            yield from _wrong_directory(key, value, f"put images there or set {key}")
        elif not os.path.lexists(value):
            yield (
                f"{key}: {value!r} is neither a directory nor a COCO file; put masks there, "
                f"<image>/*.png or label maps <image>.png, or set {key} (docs/data.md has all "
                "formats)"
            )
        else:
            is_file = value.lower().endswith(".json") and not Path(value).is_dir()
            problem = (file_problem if is_file else directory_problem)(Path(value))
            if problem:
                yield f"{key}: {value!r} is neither a directory nor a COCO file: {problem}"
    if config.data.subset is not None:
        remedy = "write the ids of images there"
        yield from _wrong_file("data.subset", config.data.subset, remedy)
    if config.data.groups_file is not None:
        remedy = "write image_id and group of each image there"
        yield from _wrong_file("data.groups", config.data.groups_file, remedy)


def _wrong_directory(key: str, value: str, remedy: str) -> Iterator[str]:
    missing = f"{value!r} is not a directory; {remedy}"
    return _wrong_path(key, value, directory_problem(Path(value)), missing)


def _wrong_file(key: str, value: str, remedy: str) -> Iterator[str]:
    return _wrong_path(
        key, value, file_problem(Path(value)), f"there is no file {value!r}; {remedy}"
    )


def _wrong_path(key: str, value: str, problem: str | None, missing: str) -> Iterator[str]:
    """Yield the problem of a path. missing: message for a path that does not exist."""
    if problem:
        yield f"{key}: {value!r}: {problem}" if os.path.lexists(value) else f"{key}: {missing}"


def _unwritable(config: RunConfig) -> Iterator[str]:
    """Yield why results cannot be written; the results of a finished run may be read-only."""
    paths = RunPaths(config)
    problem = output_problem(paths.project, written=not os.access(paths.settings, os.R_OK))
    if problem:
        yield f"output_dir: {str(paths.project)!r}: {problem}"


def check_detections(config: RunConfig) -> None:
    """Raise ConfigError if `detections` has no file, or the masks are not in a COCO file."""
    if config.detections is None:
        return
    remedy = "write a detector's boxes there, as COCO results JSON, or set detections to null"
    for problem in _wrong_file("detections", config.detections, remedy):
        raise ConfigError(problem)
    if not (config.val_mask_dir or "").lower().endswith(".json"):
        raise ConfigError(
            f"detections: {config.detections!r} needs classes and image ids of a COCO file, but "
            f"val_mask_dir is {config.val_mask_dir!r}; set val_mask_dir to the COCO file"
        )


def _missing_weights(config: RunConfig) -> Iterator[str]:
    requested = {"checkpoint": config.checkpoint}
    for number, teacher in enumerate(teacher_configs(config)):
        requested[teacher_key(number, "checkpoint")] = teacher.teacher_checkpoint
    requested |= {f"compare[{number}]": value for number, value in enumerate(config.compare)}
    extra_checkpoints(config)
    for key, value in requested.items():
        if value is None or value.startswith("run:"):
            continue
        if _is_made(key, value):
            continue
        if value in KNOWN_CHECKPOINTS:
            try:
                check_reachable(value)
            except FetchError as error:
                yield f"{key}: {error}"
        else:
            yield from _wrong_file(
                key, value, f"give a path or one of {', '.join(KNOWN_CHECKPOINTS)}"
            )


def _is_made(key: str, value: str) -> bool:
    """Return whether weights are random or made by the run, so that they need no file of the user.

    A student starts from other such weights than a teacher. Weights for `compare` are always files.
    """
    if key == "checkpoint":
        return value == "imagenet" or shape_steps(value) is not None
    return not key.startswith("compare") and random_number(value) is not None


def known_checkpoints(runs: Runs) -> set[str]:
    """Return the known checkpoints that any of the runs uses."""
    requested = {config.checkpoint for config in runs.all}
    requested |= {t.teacher_checkpoint for config in runs.all for t in teacher_configs(config)}
    requested |= {weights for config in runs.all for weights in config.compare}
    return {name for name in requested if name in KNOWN_CHECKPOINTS}


def fetched_files(runs: Runs) -> dict[str, Path]:
    """Return the files of the known data sets and checkpoints that any run needs, by name."""
    datasets = {known_dataset(config) for config in runs.all}
    files = {dataset.name: dataset.manifest for dataset in datasets if dataset is not None}
    return files | {name: checkpoint_path(name) for name in sorted(known_checkpoints(runs))}
