"""Tables of the report as data frames."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from mobile_sam.report.differences import Difference, compare_checkpoints
from mobile_sam.report.inputs.report_data import ReportData
from mobile_sam.report.labels import SIZE_RANGES, sort_prompts

MAX_CLICKS = 20  # a session ends after so many


def summary(objects: pd.DataFrame) -> pd.DataFrame:
    """Compute means by checkpoint and prompt, in this order.

    Columns checkpoint, prompt, objects, miou, dice, boundary_iou, boundary_f, j_and_f.
    """
    table = _grouped(objects, "prompt").agg(
        objects=("iou", "size"),
        miou=("iou", "mean"),
        dice=("dice", "mean"),
        boundary_iou=("boundary_iou", "mean"),
        boundary_f=("boundary_f", "mean"),
    )
    table["j_and_f"] = (table["miou"] + table["boundary_f"]) / 2
    return _ordered(table.reset_index())


def by_size(objects: pd.DataFrame) -> pd.DataFrame:
    """Compute means by COCO size: columns checkpoint, prompt, size, objects, miou, boundary_iou."""
    edges = [0, *(least for least, _ in list(SIZE_RANGES.values())[1:]), float("inf")]
    sizes = pd.cut(objects["area"], edges, right=False, labels=list(SIZE_RANGES))
    table = _grouped(objects.assign(size=sizes), "prompt", "size").agg(
        objects=("iou", "size"), miou=("iou", "mean"), boundary_iou=("boundary_iou", "mean")
    )
    return _ordered(table.reset_index(), "size")


def by_class(objects: pd.DataFrame) -> pd.DataFrame:
    """Compute means by class: columns checkpoint, prompt, class, objects, miou; may be empty."""
    known = objects[objects["class"].notna()]
    table = _grouped(known, "prompt", "class").agg(objects=("iou", "size"), miou=("iou", "mean"))
    table = table.reset_index()
    table["class"] = table["class"].astype(str)
    return _ordered(table, "class")


def clicks(objects: pd.DataFrame) -> pd.DataFrame:
    """Compute mean clicks until IoU 0.8 and 0.9, and the share of objects that never reach it.

    Columns checkpoint, objects, noc_80, never_80, noc_90, never_90.
    """
    sessions = objects[objects["prompt"] == "noc"]
    columns = {}
    for limit in (80, 90):
        columns[f"noc_{limit}"] = sessions[f"noc_{limit}"].astype(float)
        columns[f"never_{limit}"] = never(sessions, limit).astype(float)
    grouped = _grouped(sessions.assign(**columns))
    table = grouped[list(columns)].mean()
    table.insert(0, "objects", grouped.size())
    return table.reset_index()


def never(sessions: pd.DataFrame, limit: int) -> "pd.Series[bool]":
    """Return which sessions used all clicks and ended with an IoU below `limit` percent."""
    return (sessions[f"noc_{limit}"] >= MAX_CLICKS) & (sessions["iou"] < limit / 100)


def automatic(objects: pd.DataFrame) -> pd.DataFrame:
    """Compute AR and ABO of automatic masks: columns checkpoint, images, objects, ar, abo."""
    rows = objects[objects["prompt"] == "automatic"]
    table = _grouped(rows).agg(
        images=("image_id", "nunique"),
        objects=("iou", "size"),
        ar=("recall", "mean"),
        abo=("iou", "mean"),
    )
    return table.reset_index()


def by_image(objects: pd.DataFrame, prompt: str) -> pd.DataFrame:
    """Compute mean IoU with one prompt: one row per image in order, one column per checkpoint."""
    selected = objects[objects["prompt"] == prompt]
    table = _grouped(selected, "image_id")["iou"].mean().unstack("checkpoint")
    table.columns = pd.Index([str(name) for name in table.columns])
    table.index = pd.Index([str(name) for name in table.index], name="image_id")
    return table


def _grouped(objects: pd.DataFrame, *columns: str) -> "pd.api.typing.DataFrameGroupBy[Any, Any]":
    return objects.groupby(["checkpoint", *columns], sort=False, observed=True)


def _ordered(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Sort by checkpoint as they appear, by prompt in the order of labels, then by `columns`."""
    prompts = sort_prompts(set(table["prompt"]))
    table["checkpoint"] = table["checkpoint"].astype(str)
    table["prompt"] = table["prompt"].astype(str)
    ranks = {
        "checkpoint": {name: n for n, name in enumerate(table["checkpoint"].unique())},
        "prompt": {name: n for n, name in enumerate(prompts)},
    }
    keys = ["checkpoint", "prompt", *columns]
    table = table.sort_values(
        keys, key=lambda c: c.map(ranks[str(c.name)]) if c.name in ranks else c, kind="stable"
    )
    return table.reset_index(drop=True)


@dataclass(frozen=True)
class ReportTables:
    """Tables of the report, each computed at its first use."""

    report: ReportData

    @cached_property
    def summary(self) -> pd.DataFrame:
        table = summary(self.report.objects)
        notes = {checkpoint.name: checkpoint.note for checkpoint in self.report.checkpoints}
        return table.assign(note=table["checkpoint"].map(notes))

    @cached_property
    def sizes(self) -> pd.DataFrame:
        return by_size(self.report.objects)

    @cached_property
    def differences(self) -> list[Difference]:
        return compare_checkpoints(self.report)
