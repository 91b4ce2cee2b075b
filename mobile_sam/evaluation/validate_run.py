"""Validation of a run: evaluates its checkpoints on the validation images, in one or more jobs."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from mobile_sam.config.checkpoints import BOX_FILLED, checkpoint_names
from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.table import Index, check_shapes
from mobile_sam.evaluation.options import evaluation_options
from mobile_sam.evaluation.rows import filled_box_rows
from mobile_sam.evaluation.tables import join_tables, read_metadata_or_empty, write_table
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import file_digest
from mobile_sam.system.cpus import reading_processes
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.finished_results import Finished, discard

log = logging.getLogger(__name__)


def validate(config: RunConfig, checkpoint: str, part: int | None = None) -> None:
    """Write the table of a checkpoint in `checkpoint_names`: one row for each object and prompt.

    part: evaluate only this part of the images, one of `validate_jobs`, for `join_parts`. The
    joined table has the same bytes as one written by a single job. Validating twice gives equal
    tables.
    """
    if checkpoint not in checkpoint_names(config):
        raise ConfigError(
            f"--checkpoint: there is no {checkpoint!r}; there are "
            f"{', '.join(checkpoint_names(config))}"
        )
    paths = RunPaths(config)
    check_shapes(paths.index, config.img_size)
    index = Index(paths.index, "val")
    positions = _positions(len(index), part, config.validate_jobs)
    target = (
        paths.validation(checkpoint) if part is None else paths.validation_part(checkpoint, part)
    )
    if checkpoint == BOX_FILLED:
        metadata = _metadata(config, index, None) | index.metadata
        rows = filled_box_rows(index, positions, checkpoint)
    else:
        # The filled box and the joining of parts do not need torch, which is slow to import.
        from mobile_sam.evaluation.from_run import load_checkpoint_model
        from mobile_sam.evaluation.runner import measure_images
        from mobile_sam.models.safe_load import module_digest

        model = load_checkpoint_model(config, checkpoint)
        metadata = _metadata(config, index, module_digest(model)) | index.metadata
        readers = reading_processes(config.num_workers, model.device.type)
        rows = measure_images(
            model, index, positions, evaluation_options(config), checkpoint, readers
        )
    key = json.dumps([metadata, positions.start, positions.stop], sort_keys=True)
    finished = Finished(paths.finished_table(target), key, [target])
    if finished.restore():
        log.info("%s: was measured before; the table is restored", checkpoint)
    else:
        same = _measured_before(paths.project, target, metadata)
        with finished.making() as place:
            if same is not None:
                log.info("%s: reusing %s, which has the same weights and options", checkpoint, same)
                # Another job with the same weights may have started before that table existed.
                ids = None if part is None else [index[position].image_id for position in positions]
                join_tables(place / target.name, [same], checkpoint, ids)
            else:
                write_table(place / target.name, rows, metadata)
    if part is None:
        _log_means(target, checkpoint)


def join_parts(config: RunConfig, checkpoint: str) -> None:
    """Join the tables that `validate_jobs` jobs have written for a checkpoint."""
    paths = RunPaths(config)
    parts = [paths.validation_part(checkpoint, part) for part in range(config.validate_jobs)]
    join_tables(paths.validation(checkpoint), parts)
    for part in parts:
        discard(paths.finished_table(part))
    _log_means(paths.validation(checkpoint), checkpoint)


def _metadata(config: RunConfig, index: Index, weights: str | None) -> dict[str, Any]:
    """Return the metadata of a table. weights: their digest; None for the filled box."""
    options = evaluation_options(config)
    return {
        "thresholds": options.thresholds,
        "measuring": None if weights is None else options.metadata(index.objects),
        "img_size": None if weights is None else config.img_size,
        "weights": weights,
        "index": file_digest(RunPaths(config).index),
    }


def _positions(count: int, part: int | None, jobs: int) -> range:
    """Return the positions of the images that a job evaluates: all, or its part of them."""
    if part is None:
        return range(count)
    if not 0 <= part < jobs:
        raise ConfigError(
            f"--part: {part} is out of range; validate_jobs is {jobs}, and parts count from 0"
        )
    return range(count * part // jobs, count * (part + 1) // jobs)


def _measured_before(project: Path, target: Path, metadata: dict[str, Any]) -> Path | None:
    """Return an existing table of the same weights, images and options, or None.

    The last epoch of a stage is often its best, and the runs of a project share their teacher.
    """
    tables = sorted(project.glob("*/validation/*.parquet"))
    expected = json.loads(json.dumps(metadata))  # as `read_metadata_or_empty` returns it
    return next(
        (path for path in tables if path != target and read_metadata_or_empty(path) == expected),
        None,
    )


def _log_means(path: Path, checkpoint: str) -> None:
    table = pq.read_table(path, columns=["prompt", "iou"])
    for prompt in table["prompt"].unique():
        mean = pc.mean(table.filter(pc.equal(table["prompt"], prompt))["iou"])
        log.info("%s: mIoU by %s %.3f", checkpoint, prompt.as_py(), mean.as_py())
