"""What was measured, in numbers: each table of the report as a data frame."""

import pandas as pd

from mobile_sam.report.words import SIZES, in_order

_NEVER = 20  # clicks after which a session ends


def summary(objects: pd.DataFrame) -> pd.DataFrame:
    """Means by checkpoint and prompt, in this order.

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
    """Means by COCO's sizes: columns checkpoint, prompt, size, objects, miou, boundary_iou."""
    edges = [0, *(least for least, _ in list(SIZES.values())[1:]), float("inf")]
    sizes = pd.cut(objects["area"], edges, right=False, labels=list(SIZES))
    table = _grouped(objects.assign(size=sizes), "prompt", "size").agg(
        objects=("iou", "size"), miou=("iou", "mean"), boundary_iou=("boundary_iou", "mean")
    )
    return _ordered(table.reset_index(), "size")


def by_class(objects: pd.DataFrame) -> pd.DataFrame:
    """Means by class: columns checkpoint, prompt, class, objects, miou; empty without classes."""
    known = objects[objects["class"].notna()]
    table = _grouped(known, "prompt", "class").agg(objects=("iou", "size"), miou=("iou", "mean"))
    table = table.reset_index()
    table["class"] = table["class"].astype(str)
    return _ordered(table, "class")


def clicks(objects: pd.DataFrame) -> pd.DataFrame:
    """Mean clicks until IoU 0.8 and 0.9, and the share of segments that never get there.

    Columns checkpoint, objects, noc_80, never_80, noc_90, never_90. A session has ended without
    success when it took all clicks and its mask, the last, is still below.
    """
    sessions = objects[objects["prompt"] == "noc"]
    columns = {}
    for limit in (80, 90):
        used = sessions[f"noc_{limit}"].astype(float)
        columns[f"noc_{limit}"] = used
        never = (used >= _NEVER) & (sessions["iou"] < limit / 100)
        columns[f"never_{limit}"] = never.astype(float)
    grouped = _grouped(sessions.assign(**columns))
    table = grouped[list(columns)].mean()
    table.insert(0, "objects", grouped.size())
    return table.reset_index()


def automatic(objects: pd.DataFrame) -> pd.DataFrame:
    """AR and ABO of automatically found masks: columns checkpoint, images, objects, ar, abo."""
    found = objects[objects["prompt"] == "automatic"]
    table = _grouped(found).agg(
        images=("image_id", "nunique"),
        objects=("iou", "size"),
        ar=("recall", "mean"),
        abo=("iou", "mean"),
    )
    return table.reset_index()


def by_image(objects: pd.DataFrame, prompt: str) -> pd.DataFrame:
    """Mean IoU by one prompt: a row for each image, in their order, a column for each what."""
    chosen = objects[objects["prompt"] == prompt]
    table = _grouped(chosen, "image_id")["iou"].mean().unstack("checkpoint")
    table.columns = pd.Index([str(name) for name in table.columns])
    table.index = pd.Index([str(name) for name in table.index], name="image_id")
    return table


def _grouped(objects: pd.DataFrame, *columns: str) -> "pd.api.typing.DataFrameGroupBy":
    return objects.groupby(["checkpoint", *columns], sort=False, observed=True)


def _ordered(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """By checkpoint as they come, prompts in their order, then by `columns`."""
    prompts = in_order(set(table["prompt"]))
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
