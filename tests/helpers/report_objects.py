"""Rows of tables by hand, and what was measured around them."""

from pathlib import Path
from typing import Any

import pandas as pd

from mobile_sam.report.inputs.report_data import Checkpoint, Kind, ReportData

KINDS: dict[str, Kind] = {
    "box_filled": "baseline",
    "start": "start",
    "00_distill": "stage",
    "01_finetune": "stage",
    "01_finetune_best": "best",
    "teacher": "teacher",
    "mobile_sam": "compared",
}


def row(
    checkpoint: str, image: str, iou: float, prompt: str = "box", **more: Any
) -> dict[str, object]:
    """A row of a table; the other measures follow from `iou`."""
    plain: dict[str, object]
    plain = {"image_id": image, "segment_id": "1", "class": None, "area": 100}
    plain |= {"dice": iou / 2, "boundary_iou": iou / 4, "boundary_f": iou / 2}
    plain |= {"predicted_iou": iou, "noc_80": None, "noc_90": None, "recall": None}
    return {"checkpoint": checkpoint, "prompt": prompt, "iou": iou, **plain, **more}


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """The rows as they are read: names are categories."""
    frame = pd.DataFrame(rows)
    names = ["checkpoint", "prompt", "image_id", "segment_id", "class"]
    return frame.astype(dict.fromkeys(names, "category"))


def report(rows: list[dict[str, object]], **changes: Any) -> ReportData:
    """A run of the stages that are in the rows; the last is the main one."""
    objects = table(rows)
    names = [name for name in KINDS if name in set(objects["checkpoint"])]
    checkpoints = tuple(
        Checkpoint(name, KINDS[name], f"what {name} is", Path(name)) for name in names
    )
    stages = [w.name for w in checkpoints if w.kind == "stage"]
    steps = tuple(zip(stages, ["start", *stages], strict=False))
    main = stages[-1]
    others = [name for name in names if KINDS[name] not in {"stage", "best"}]
    pairs = dict.fromkeys([*((s, "start") for s in stages), *steps, *((main, o) for o in others)])
    values: dict[str, Any] = {
        "title": "title",
        "checkpoints": checkpoints,
        "main": main,
        "pairs": tuple(pairs),
        "steps": steps,
        "worse": "Images where a stage reduced mean IoU",
        "objects": objects,
        "sweeps": pd.DataFrame(columns=["checkpoint", "prompt", "threshold", "miou"]),
        "mask_threshold": 0.0,
        "examples": 2,
        "chain": True,
    }
    return ReportData(**values | changes)
