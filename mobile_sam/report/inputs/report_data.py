"""Data of a report, whether of one run, of several runs, or of tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from mobile_sam.data.index.summary import Summary
from mobile_sam.report.labels import sort_prompts

Kind = Literal["baseline", "start", "stage", "best", "teacher", "compared"]


@dataclass(frozen=True)
class Checkpoint:
    """Validated checkpoint: name in tables, kind, description, and path of its table."""

    name: str
    kind: Kind
    description: str
    table: Path

    @property
    def note(self) -> str:
        """Caveat to quote with its results; empty for most checkpoints."""
        return (
            "epoch selected on these images; overestimates accuracy" if self.kind == "best" else ""
        )


@dataclass(frozen=True)
class Training:
    """Training history.

    epochs: one row per epoch; columns run, stage, epoch, losses, val_box_iou, val_point_iou, and
        val_clicks_iou if it selects epochs.
    stages: one row per stage, formatted for a table.
    """

    epochs: pd.DataFrame
    stages: pd.DataFrame


@dataclass(frozen=True)
class Origin:
    """Provenance of the results.

    versions: by name, such as torch. settings: by run. times: one row per rule that Snakemake ran;
    columns rule, minutes, memory_mib.
    """

    versions: dict[str, str]
    settings: dict[str, str]
    times: pd.DataFrame


@dataclass(frozen=True)
class ReportData:
    """Results on one data set, and the comparisons to show.

    groups: as `data.groups`, the independently drawn units; None: each image.
    checkpoints: in the order of all tables. main: name of the checkpoint that the page is about.
    pairs: (checkpoint, against) of the comparisons to show, in order.
    steps: (checkpoint, before) between which an image should not get worse; worse: title for images
    that do. chain: whether steps follow each other, like the stages of a run.
    objects: one row per object, prompt and checkpoint, without masks: columns of the tables in
    `validation/`; `checkpoint` is the checkpoint's name. sweeps: mean IoU by threshold; columns
    checkpoint, prompt, threshold, miou. precision: AP; columns checkpoint and the metrics.
    """

    title: str
    checkpoints: tuple[Checkpoint, ...]
    main: str
    pairs: tuple[tuple[str, str], ...]
    steps: tuple[tuple[str, str], ...]
    worse: str
    objects: pd.DataFrame
    sweeps: pd.DataFrame
    mask_threshold: float
    examples: int
    precision: pd.DataFrame | None = None
    costs: pd.DataFrame | None = None
    training: Training | None = None
    data: Summary | None = None
    origin: Origin | None = None
    chain: bool = False
    groups: str | None = None

    @property
    def names(self) -> list[str]:
        return [checkpoint.name for checkpoint in self.checkpoints]

    @property
    def rivals(self) -> list[str]:
        """Names of the other checkpoints of the same kind as the main one, such as other runs."""
        kind = next(
            checkpoint.kind for checkpoint in self.checkpoints if checkpoint.name == self.main
        )
        return [name for name in self.of_kind(kind) if name != self.main]

    @property
    def models(self) -> list[Checkpoint]:
        """All checkpoints except the filled box."""
        return [checkpoint for checkpoint in self.checkpoints if checkpoint.kind != "baseline"]

    def of_kind(self, *kinds: Kind) -> list[str]:
        """Return the names of checkpoints of these kinds, in order."""
        return [checkpoint.name for checkpoint in self.checkpoints if checkpoint.kind in kinds]

    @property
    def prompts(self) -> list[str]:
        """Evaluated prompts, in the order of `labels.PROMPTS`."""
        return sort_prompts(set(self.objects["prompt"].unique()))

    @property
    def first_prompt(self) -> str:
        """Prompt of the verdict, the gallery and rankings: box if it was evaluated."""
        return self.prompts[0]
