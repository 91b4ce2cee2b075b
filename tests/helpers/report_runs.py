"""Runs whose results are made up: every file that a report reads, without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mobile_sam.config.checkpoints import checkpoint_names
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint
from tests.helpers.report_tables import PLAIN, write_made_up
from tests.helpers.runs import TWO_STAGES, tiny_settings

ERRORS = {
    "box_filled": 0.0,
    "start": 0.09,
    "00_distill": 0.05,
    "00_distill_best": 0.048,
    "01_finetune": 0.03,
    "01_finetune_best": 0.029,
    "teacher": 0.015,
}


def write_run(
    scenes: Path,
    output_dir: Path,
    errors: dict[str, float] | None = None,
    prompts: Sequence[str] = PLAIN,
    **changes: Any,
) -> RunConfig:
    """A finished run of two stages; `errors` are those of `write_made_up`, by what."""
    settings = {"num_epochs": 4, "stage_schedule": TWO_STAGES, "report_examples": 2} | changes
    config = parse_config(tiny_settings(scenes, output_dir, **settings), "test")
    paths = RunPaths(config)
    if not paths.index.is_file():
        index_dataset(paths.sources, paths.index, config.data)
    index = Index(paths.index, "val")
    for what in checkpoint_names(config):
        write_made_up(index, paths.validation(what), what, (ERRORS | (errors or {}))[what], prompts)
    for stage in normalise(config):
        epochs = np.arange(stage.start_epoch, stage.end_epoch)
        metrics: dict[str, np.ndarray | float]
        metrics = {"epoch": epochs, "step": 3 * epochs, "loss": 1 / (1 + epochs)}
        metrics |= {"focal": 0.1 / (1 + epochs), "distillation": 0.5 / (1 + epochs)}
        metrics |= {"val_box_iou": 0.4 + 0.1 * epochs, "val_point_iou": 0.3 + 0.1 * epochs}
        metrics |= {"seconds": 30.0, "best": (epochs == epochs[-1]).astype(int)}
        paths.metrics(stage).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(metrics).to_csv(paths.metrics(stage), index=False)
        made_by = {"mobile_sam": "0.1.0", "torch": "2.6", "commit": "abc1234"}
        checkpoint.save(paths.checkpoint(stage), {"provenance": made_by})
    return config


def write_extras(config: RunConfig) -> None:
    """Costs, AP, and the times of rules."""
    paths = RunPaths(config)
    rows = []
    for name, factor in (("start", 1.0), ("teacher", 40.0)):
        row = {"checkpoint": name, "architecture": f"arch_{name}", "parameters": 1e7 * factor}
        row |= {"image_encoder_parameters": 9e6 * factor, "gflops_encoder": 40 * factor}
        row |= {"gflops_decoder": 1.0, "encoder_ms": 20 * factor, "encoder_ms_low": 19 * factor}
        row |= {"encoder_ms_high": 22 * factor, "decoder_ms": 5.0, "decoder_ms_low": 4.0}
        row |= {"decoder_ms_high": 7.0, "memory_mib": 500.0 * factor, "device": "cpu"}
        rows.append(row | {"threads": 1, "img_size": 64})
    pd.DataFrame(rows).to_csv(paths.cost, index=False)
    for name, value in (("start", 0.2), ("teacher", 0.4)):
        path = paths.average_precision(name)
        path.write_text(json.dumps({"AP": value, "AP50": value + 0.2}))
    for directory, name, seconds in (
        (paths.shared_logs, "index", 6.0),
        (paths.stage(normalise(config)[0]), "train", 90.0),
        (paths.benchmarks, "report", 30.0),
    ):
        directory.mkdir(parents=True, exist_ok=True)
        line = f"s\th:m:s\tmax_rss\n{seconds}\t0:00:06\t512.5\n"
        (directory / f"{name}.tsv").write_text(line)
