"""Runs as files: a run's JSON, an overlay and the command line, resolved to settings.

Precedence: defaults < the run's JSON < overlay < command line.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mobile_sam.architectures import architecture, stride_16_blocks
from mobile_sam.config import (
    SHARED_KEYS,
    ConfigError,
    RunConfig,
    parse_config,
)
from mobile_sam.fetch import KNOWN_CHECKPOINTS
from mobile_sam.schedule import any_distillation, normalise, scale
from mobile_sam.shipped import CONFIG_DIR
from mobile_sam.teachers import random_number, teacher_configs, teacher_key

DEFAULT_RUN, DEFAULT_OVERLAY = "distill_then_finetune", "demo"
Weights = tuple[str, str | None]  # of a teacher: its checkpoint and model_type


@dataclass(frozen=True)
class Runs:
    """Every run of one workflow, teachers before the runs that ask for them."""

    all: tuple[RunConfig, ...]
    named: tuple[RunConfig, ...]

    def __getitem__(self, run_name: str) -> RunConfig:
        return next(config for config in self.all if config.run_name == run_name)


def resolve(names: str, overlay: str | None, overrides: Mapping[str, Any]) -> Runs:
    """Settings of the runs in the comma-separated list `names`, and of their teacher runs.

    names: runs of `configs/`, or paths of JSON files.
    overlay: a file of `configs/overlays/`, or None.
    overrides: keys from the command line; those of SHARED_KEYS hold for teacher runs too.
    Raises ConfigError in one line that names file, entry and key.
    """
    overrides = {key: _plain(value) for key, value in overrides.items()}
    shared = {key: value for key, value in overrides.items() if key in SHARED_KEYS}
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise ConfigError(f"run: none is named; there are {', '.join(known_runs())}")
    done: dict[str, RunConfig] = {}
    beside: dict[str, None] = {}  # runs that others are compared with

    def load(name: str) -> RunConfig:
        return _load(name, overlay, overrides if name in chosen else shared)

    def in_place(weights: str) -> str:
        if not weights.startswith("run:"):
            return weights
        beside[weights.removeprefix("run:")] = None
        return f"run:{load(weights.removeprefix('run:')).run_name}"

    def visit(name: str, asked_by: tuple[str, ...] = ()) -> RunConfig:
        if name in asked_by:
            raise ConfigError(f"{' -> '.join([*asked_by, name])}: a run cannot teach itself")
        config = load(name)

        def of_run(number: int, checkpoint: str, model_type: str | None) -> Weights:
            if not checkpoint.startswith("run:"):
                return checkpoint, model_type
            teacher = visit(checkpoint.removeprefix("run:"), (*asked_by, name))
            return f"run:{teacher.run_name}", teacher.model_type

        config = _with_teachers(config, of_run)
        check_teachers(config)
        if name in chosen:
            config = config.model_copy(update={"compare": tuple(map(in_place, config.compare))})
        if done.setdefault(config.run_name, config) != config:
            raise ConfigError(f"run_name: {config.run_name!r} belongs to two different runs")
        return config

    named = tuple(visit(name) for name in dict.fromkeys(chosen))
    for name in beside:
        visit(name)
    _check_unlabelled(tuple(done.values()), "unlabelled_img_dir" in shared)
    return Runs(all=tuple(done.values()), named=named)


def load_settings(path: Path) -> RunConfig:
    """The settings in `path`: a resolved `run.json`, or a run's own JSON without an overlay."""
    config = _load(str(path), None, {})
    if any(teacher.teacher_model_type is None for teacher in teacher_configs(config)):
        return resolve(str(path), None, {}).named[0]
    return config


def _check_unlabelled(configs: tuple[RunConfig, ...], given: bool) -> None:
    """Raise ConfigError for images without masks that no stage learns from.

    given: whether they come from the command line, and so hold for all runs, of which one must
    distil; else each run that has them must.
    """
    asking = [config for config in configs if config.unlabelled_img_dir is not None]
    idle = [c for c in asking if not any(stage.distils for stage in normalise(c))]
    if idle and (not given or len(idle) == len(configs)):
        raise ConfigError(
            f"run {idle[-1].run_name!r}: unlabelled_img_dir: {idle[-1].unlabelled_img_dir!r}, but "
            "no stage distils, and only from a teacher can images without masks be learned from; "
            "set distillation of a stage to true, or unlabelled_img_dir to null"
        )


def check_teachers(config: RunConfig) -> None:
    """Raise ConfigError for a teacher that cannot teach the student, or that is there twice."""
    seen: dict[tuple[object, ...], int] = {}
    for number, teacher in enumerate(teacher_configs(config)):
        if teacher.teacher_model_type is None:
            continue  # of a run that is not read yet
        _check_teacher(teacher, number)
        same = teacher.teacher_checkpoint, teacher.teacher_model_type, teacher.distill_levels
        if same in seen:
            raise ConfigError(
                f"run {config.run_name!r}: {teacher_key(number, 'checkpoint')}: "
                f"{teacher.teacher_checkpoint!r} at this level is "
                f"{teacher_key(seen[same], 'checkpoint')} again; leave one of them out"
            )
        seen[same] = number


def _check_teacher(config: RunConfig, number: int) -> None:
    """As `check_teachers`, for a run with one teacher, which is the `number`-th of the real one."""
    name = config.teacher_model_type or ""
    student, teacher = (architecture(of) for of in (config.model_type, name))
    levels, source = config.distill_levels, f"run {config.run_name!r}"
    from_neck = "neck" in levels and any_distillation(config)
    needs_same_width = config.decoder_from_teacher or from_neck
    if needs_same_width and student["embed_dim"] != teacher["embed_dim"]:
        raise ConfigError(
            f"{source}: {teacher_key(number, 'model_type')}: {name!r} has embeddings of "
            f"{teacher['embed_dim']} channels, model_type {config.model_type!r} of "
            f"{student['embed_dim']}; choose architectures of equal embed_dim"
        )
    blocks = stride_16_blocks(name)
    for level in levels:
        if level == "neck" or level in blocks:
            continue
        which = f"one of {blocks[0]} to {blocks[-1]}, or 'neck'" if blocks else "'neck'"
        raise ConfigError(
            f"{source}: {teacher_key(number, 'feature_level')}: {name!r} has no block {level} of "
            f"stride 16; take {which}"
        )


def known_runs() -> list[str]:
    """Names of the runs in `configs/`."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.json") if path.stem != "schema")


def known_overlays() -> list[str]:
    """Names of the overlays in `configs/overlays/`."""
    return sorted(path.stem for path in (CONFIG_DIR / "overlays").glob("*.json"))


def _load(name: str, overlay: str | None, overrides: dict[str, Any]) -> RunConfig:
    is_path = name.endswith(".json")
    path = Path(name) if is_path else CONFIG_DIR / f"{name}.json"
    if not (path.is_file() if is_path else name in known_runs()):
        raise ConfigError(f"run: there is no {name!r}; there are {', '.join(known_runs())}")
    settings = {"run_name": path.stem} | _read_object(path)
    layers = [(str(path), settings)]
    if overlay is not None:
        layers += _overlay_layers(overlay, path.stem, settings["run_name"])
    layers.append(("--config", overrides))
    merged: dict[str, Any] = {}
    for source, layer in layers:
        if merged.get("stage_schedule") and "num_epochs" in layer and "stage_schedule" not in layer:
            lower = parse_config(merged, source)  # the schedule must be sound before it is scaled
            normalise(lower, source)
            new = parse_config(merged | layer | {"stage_schedule": []}, source).num_epochs
            layer = layer | {  # noqa: PLW2901
                "stage_schedule": scale(merged["stage_schedule"], lower.num_epochs, new, source)
            }
        merged |= layer
    source = " + ".join(source for source, layer in layers if layer)
    config = _with_teachers(parse_config(merged, source), partial(_known_architecture, source))
    normalise(config, source)
    check_teachers(config)
    return config


def _known_architecture(
    source: str, number: int, checkpoint: str, model_type: str | None
) -> Weights:
    """A teacher with the architecture of its known name; that of a run is not known yet."""
    if model_type is None and checkpoint in KNOWN_CHECKPOINTS:
        return checkpoint, KNOWN_CHECKPOINTS[checkpoint].model_type
    if model_type is None and not checkpoint.startswith("run:"):
        what = "a path" if random_number(checkpoint) is None else "no known model"
        raise ConfigError(
            f"{source}: {teacher_key(number, 'checkpoint')}: {checkpoint!r} is {what}, so "
            f"{teacher_key(number, 'model_type')} must say which architecture it has"
        )
    return checkpoint, model_type


def _with_teachers(
    config: RunConfig, change: Callable[[int, str, str | None], Weights]
) -> RunConfig:
    """The run with other weights for each of its teachers.

    change: gives (checkpoint, model_type) for the number of a teacher and what it has.
    """
    if config.teacher_checkpoint is None:
        return config
    checkpoint, model_type = change(0, config.teacher_checkpoint, config.teacher_model_type)
    more = []
    for number, teacher in enumerate(config.more_teachers, start=1):
        name, architecture_of = change(number, teacher.checkpoint, teacher.model_type)
        more.append(teacher.model_copy(update={"checkpoint": name, "model_type": architecture_of}))
    return config.model_copy(
        update={
            "teacher_checkpoint": checkpoint,
            "teacher_model_type": model_type,
            "more_teachers": tuple(more),
        }
    )


def _overlay_layers(overlay: str, stem: str, run_name: str) -> list[tuple[str, dict[str, Any]]]:
    path = CONFIG_DIR / "overlays" / f"{overlay}.json"
    if overlay not in known_overlays():
        raise ConfigError(
            f"overlay: there is no {overlay!r}; there are {', '.join(known_overlays())}"
        )
    content = _read_object(path)
    unknown = set(content) - {"settings", "runs"}
    if unknown:
        raise ConfigError(f"{path}: unknown key {min(unknown)!r}; there are 'settings' and 'runs'")
    own = content.get("runs", {}).get(stem, {})
    settings = content["settings"] | {"run_name": f"{run_name}-{overlay}"}
    return [(f"overlay {overlay}", settings), (f"overlay {overlay}, runs.{stem}", own)]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the file must hold one JSON object")
    return content


def _plain(value: Any) -> Any:
    """A value of the command line: Snakemake hands `null` and JSON over as text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value
