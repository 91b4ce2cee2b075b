"""What was measured: all that a page is drawn from, whether of a run, of several, or of tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from mobile_sam.data.summary import Summary
from mobile_sam.report.words import in_order

Kind = Literal["baseline", "start", "stage", "best", "teacher", "compared"]


@dataclass(frozen=True)
class What:
    """One validated thing: its name in tables, what it is in a sentence, and its table's file."""

    name: str
    kind: Kind
    meaning: str
    table: Path


@dataclass(frozen=True)
class Training:
    """What training left.

    epochs: a row for each epoch; columns run, stage, epoch, losses, val_box_iou, val_point_iou.
    stages: a row for each stage, in words for a table.
    """

    epochs: pd.DataFrame
    stages: pd.DataFrame


@dataclass(frozen=True)
class Origin:
    """Where numbers come from.

    versions: by name, such as torch. settings: by run. times: a row for each rule that Snakemake
    ran; columns rule, minutes, memory_mib.
    """

    versions: dict[str, str]
    settings: dict[str, str]
    times: pd.DataFrame


@dataclass(frozen=True)
class Measured:
    """Numbers of one data set, and how they belong together.

    whats: in the order of all tables. main: the name of the one that the page is about.
    pairs: (what, against) of the comparisons of interest, in order.
    steps: (what, before) in which an image should not get worse; worse: what to call those that do.
    chain: whether steps follow each other, as the stages of a run do.
    objects: a row for each segment, prompt and what, without masks: columns of the tables in
    `validation/`, and `checkpoint` is the what's name. sweeps: mean IoU by threshold; columns
    checkpoint, prompt, threshold, miou. precision: AP; columns checkpoint, and what was measured.
    """

    title: str
    whats: tuple[What, ...]
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

    @property
    def names(self) -> list[str]:
        return [what.name for what in self.whats]

    @property
    def rivals(self) -> list[str]:
        """What competes with the main what: other runs, or other checkpoints of the same kind."""
        kind = next(what.kind for what in self.whats if what.name == self.main)
        return [name for name in self.of_kind(kind) if name != self.main]

    @property
    def models(self) -> list[What]:
        """All but the filled box."""
        return [what for what in self.whats if what.kind != "baseline"]

    def of_kind(self, *kinds: Kind) -> list[str]:
        """Names of those of a kind, in order."""
        return [what.name for what in self.whats if what.kind in kinds]

    @property
    def prompts(self) -> list[str]:
        """Prompts that were measured, in the order of `words.PROMPTS`."""
        return in_order(set(self.objects["prompt"].unique()))

    @property
    def first_prompt(self) -> str:
        """The prompt that verdict, gallery and ranks go by: the box where there is one."""
        return self.prompts[0]
