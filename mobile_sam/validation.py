"""Validation of a run: each of its models measured on the validation images, in one job or many."""

import json
import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.data.index import Index
from mobile_sam.evaluation.cost import blueprint_of, blueprints, write_costs
from mobile_sam.evaluation.detections import detected_precision
from mobile_sam.evaluation.measure import measured
from mobile_sam.evaluation.protocols import measuring
from mobile_sam.evaluation.tables import join_tables, kept_about, write_table
from mobile_sam.files import write_json
from mobile_sam.layout import BOX_FILLED, START, RunPaths, compared, trained, validated
from mobile_sam.models.device import default_device
from mobile_sam.models.recognise import load_any
from mobile_sam.models.roles import load_teacher, start_student
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import file_digest, module_digest
from mobile_sam.plan import check_detections
from mobile_sam.runs import load_run
from mobile_sam.teachers import named_teachers
from mobile_sam.training.export import load_student

log = logging.getLogger(__name__)


def validate(config: RunConfig, what: str, part: int | None = None) -> None:
    """Write the table of `what`, one of `validated`: a row for each segment and prompt.

    part: write only what the part-th of `validate_jobs` jobs measures, for `join_parts`; the joined
    table has the bytes of one that a single job wrote. Two validations write equal tables.
    """
    if what not in validated(config):
        raise ConfigError(f"--what: there is no {what!r}; there are {', '.join(validated(config))}")
    paths, how = RunPaths(config), measuring(config)
    index = Index(paths.index, "val")
    positions = _positions(len(index), part, config.validate_jobs)
    model = None if what == BOX_FILLED else _model(config, what)
    about = {
        "thresholds": how.thresholds,
        "measuring": None if model is None else asdict(how),
        "img_size": None if model is None else model.img_size,
        "weights": None if model is None else module_digest(model),
        "index": file_digest(paths.index),
    }
    target = paths.validation(what) if part is None else paths.validation_part(what, part)
    same = _measured_before(paths.project, target, about)
    if same is not None:
        log.info("%s: the weights are those of %s, measured in the same way", what, same)
        if part:
            write_table(target, [], about)  # the first part has all
        else:
            join_tables(target, [same], renamed=what)
    else:
        rows = measured(model, index, positions, how, what, config.num_workers)
        write_table(target, rows, about)
    if part is None:
        _log_means(target, what)


def join_parts(config: RunConfig, what: str) -> None:
    """Write the table of `what` from what `validate_jobs` jobs measured."""
    paths = RunPaths(config)
    parts = [paths.validation_part(what, part) for part in range(config.validate_jobs)]
    join_tables(paths.validation(what), parts)
    _log_means(paths.validation(what), what)


def write_average_precision(config: RunConfig, what: str) -> None:
    """Write AP of the boxes of `detections`, segmented by `what`, as JSON.

    Raises ConfigError when there are none, or when the masks are in no COCO file.
    """
    if config.detections is None or what == BOX_FILLED:
        raise ConfigError("detections: set it to the boxes that a model is to segment")
    paths = RunPaths(config)
    check_detections(config)
    found = detected_precision(
        _model(config, what),
        Path(config.detections),
        paths.mask_dir("val"),
        paths.image_dir("val"),
        config.mask_threshold,
    )
    known = {name: value for name, value in found.items() if not math.isnan(value)}
    write_json(paths.average_precision(what), {name: known.get(name) for name in found})
    log.info("%s: %s", what, "  ".join(f"{name} {value:.3f}" for name, value in known.items()))


def measure_costs(config: RunConfig) -> None:
    """Write parameters, operations, latency and memory of the run's models, on this machine."""
    if not config.cost_repeats:
        raise ConfigError("cost_repeats: 0 measures no cost; set it to 1 or more")
    extra = {
        name: blueprint_of(path, config.img_size, _model_type_beside(path))
        for name, path in compared(config).items()
    }
    write_costs(blueprints(config) | extra, RunPaths(config).cost, config.cost_repeats)


def _positions(count: int, part: int | None, jobs: int) -> range:
    """Positions of the images that a job measures: all, or its part of them."""
    if part is None:
        return range(count)
    if not 0 <= part < jobs:
        raise ConfigError(f"--part: {part}, but validate_jobs is {jobs}; parts count from 0")
    return range(count * part // jobs, count * (part + 1) // jobs)


def _model(config: RunConfig, what: str) -> Sam:
    teachers, others, students = named_teachers(config), compared(config), trained(config)
    if what in teachers:
        model = load_teacher(teachers[what])
    elif what in others:
        model = load_any(others[what], config.img_size, _model_type_beside(others[what]))
    else:
        model = start_student(config)
        if what != START:
            load_student(model, config, *students[what])
    device = default_device()
    return model.eval().to(device)


def _model_type_beside(weights: Path) -> str | None:
    """The architecture of a run's weights, by the settings beside them; None for other files."""
    settings = weights.with_name("run.json")
    return load_run(settings).model_type if settings.is_file() else None


def _measured_before(project: Path, target: Path, about: dict[str, Any]) -> Path | None:
    """Another table of the same weights on the same images, measured in the same way.

    Most stages end in their best epoch, and the runs of a project share their teacher.
    """
    tables = sorted(project.glob("*/validation/*.parquet"))
    kept = json.loads(json.dumps(about))  # as `kept_about` reads it
    return next((path for path in tables if path != target and kept_about(path) == kept), None)


def _log_means(path: Path, what: str) -> None:
    table = pd.read_parquet(path, columns=["prompt", "iou"])
    for prompt, mean in table.groupby("prompt", sort=False)["iou"].mean().items():
        log.info("%s: mIoU by %s %.3f", what, prompt, mean)
