"""Validation of a run: each of its models measured on the validation images, in one job or many."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.data.index import Index
from mobile_sam.evaluation.measuring import measuring
from mobile_sam.evaluation.rows import boxes_filled
from mobile_sam.evaluation.tables import join_tables, kept_about, write_table
from mobile_sam.files import file_digest
from mobile_sam.layout import BOX_FILLED, RunPaths, validated

log = logging.getLogger(__name__)


def validate(config: RunConfig, what: str, part: int | None = None) -> None:
    """Write the table of `what`, one of `validated`: a row for each segment and prompt.

    part: write only what the part-th of `validate_jobs` jobs measures, for `join_parts`; the joined
    table has the bytes of one that a single job wrote. Two validations write equal tables.
    """
    if what not in validated(config):
        raise ConfigError(f"--what: there is no {what!r}; there are {', '.join(validated(config))}")
    paths = RunPaths(config)
    index = Index(paths.index, "val")
    positions = _positions(len(index), part, config.validate_jobs)
    target = paths.validation(what) if part is None else paths.validation_part(what, part)
    if what == BOX_FILLED:
        about = _about(config, None)
        rows = boxes_filled(index, positions, what)
    else:
        # Boxes are filled, and parts joined, without waiting for torch.
        from mobile_sam.evaluation.measure import measured
        from mobile_sam.evaluation.of_run import validated_model
        from mobile_sam.models.state_files import module_digest

        model = validated_model(config, what)
        about = _about(config, module_digest(model))
        rows = measured(model, index, positions, measuring(config), what, config.num_workers)
    same = _measured_before(paths.project, target, about)
    if same is not None:
        log.info("%s: the weights are those of %s, measured in the same way", what, same)
        # Another job of the same weights may have begun before that table was there.
        images = None if part is None else [index[position].image_id for position in positions]
        join_tables(target, [same], what, images)
    else:
        write_table(target, rows, about)
    if part is None:
        _log_means(target, what)


def join_parts(config: RunConfig, what: str) -> None:
    """Write the table of `what` from what `validate_jobs` jobs measured."""
    paths = RunPaths(config)
    parts = [paths.validation_part(what, part) for part in range(config.validate_jobs)]
    join_tables(paths.validation(what), parts)
    _log_means(paths.validation(what), what)


def _about(config: RunConfig, weights: str | None) -> dict[str, Any]:
    """What a table is of. weights: their digest; None for the filled box."""
    how = measuring(config)
    return {
        "thresholds": how.thresholds,
        "measuring": None if weights is None else asdict(how),
        "img_size": None if weights is None else config.img_size,
        "weights": weights,
        "index": file_digest(RunPaths(config).index),
    }


def _positions(count: int, part: int | None, jobs: int) -> range:
    """Positions of the images that a job measures: all, or its part of them."""
    if part is None:
        return range(count)
    if not 0 <= part < jobs:
        raise ConfigError(f"--part: {part}, but validate_jobs is {jobs}; parts count from 0")
    return range(count * part // jobs, count * (part + 1) // jobs)


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
