"""Sections on how models answer: clicks, calibration, thresholds, automatic masks, detections."""

from typing import Any

import pandas as pd

from mobile_sam.metrics.calibration import calibration as calibrate
from mobile_sam.report.blocks import Block, Column, Drawing, Section, Table
from mobile_sam.report.click_plots import plot_clicks
from mobile_sam.report.measured import Measured
from mobile_sam.report.numbers import Numbers
from mobile_sam.report.plots import (
    plain_prompts,
    plot_calibration,
    plot_thresholds,
)
from mobile_sam.report.quality import CHECKPOINT
from mobile_sam.report.tables import automatic as automatic_table
from mobile_sam.report.tables import clicks as clicks_table
from mobile_sam.report.words import AUTOMATIC, in_order, prompt_label


def clicks(numbers: Numbers) -> Section | None:
    """IoU after some clicks, and clicks until an IoU."""
    measured = numbers.measured
    if not {"clicks_5", "noc"} & set(measured.prompts):
        return None
    blocks: list[Block] = [Drawing(plot_clicks(measured, numbers.summary))]
    if "noc" in measured.prompts:
        columns = [CHECKPOINT, Column("objects", "segments", "{:d}")]
        for limit in (80, 90):
            never = f"share of segments that stay below IoU 0.{limit} through all 20 clicks"
            columns += [
                Column(f"noc_{limit}", f"NoC@{limit}", "{:.2f}", f"clicks until IoU 0.{limit}"),
                Column(f"never_{limit}", f"never {limit}", "{:.1%}", never),
            ]
        note = (
            "NoC@80 and NoC@90: mean number of clicks until IoU 0.80 and 0.90; who never gets "
            "there counts as 20. Fewer is better."
        )
        table = clicks_table(measured.objects)
        blocks.append(Table("noc", columns, table, note, measured.main))
    words = (
        "How many clicks does a person need? The first lies deepest in the segment, each later one "
        "deepest in the largest error, and the model sees its own mask before. Where clicks make "
        "it worse, the model never learned them: see prompt_rounds and prompts.mask."
    )
    return Section("clicks", "Clicks", words, blocks)


def calibration(numbers: Numbers) -> Section | None:
    """Whether the predicted IoU can be trusted."""
    measured = numbers.measured
    curves, errors = calibration_tables(measured)
    if not len(errors):
        return None
    shown = errors.assign(prompt=[prompt_label(p) for p in errors["prompt"]])
    columns = [
        CHECKPOINT,
        Column("prompt", "prompt"),
        Column("expected_error", "ECE", "{:.3f}", "mean distance from the grey line"),
        Column("absolute_error", "mean error", "{:.3f}", "mean distance of single segments"),
        Column("pearson", "Pearson", "{:.2f}", "correlation of predicted and measured"),
        Column("spearman", "Spearman", "{:.2f}", "correlation of their ranks"),
    ]
    note = (
        "ECE, the expected calibration error: distance of the curve from the grey line, weighted "
        "by segments; less is better. Spearman: 1 when better masks always have the higher "
        "prediction, which is what choosing among masks needs."
    )
    return Section(
        "calibration",
        "Calibration",
        "Does the model know how good its masks are? It predicts an IoU with each of them.",
        [
            Drawing(plot_calibration(measured, curves)),
            Table("calibration_errors", columns, shown, note, measured.main),
        ],
    )


def calibration_tables(measured: Measured) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves, with a row for each bin that is not empty, and errors, a row for each curve.

    Columns checkpoint, prompt; of curves predicted_iou, iou, objects; of errors expected_error,
    absolute_error, pearson, spearman.
    """
    chosen = measured.objects[measured.objects["prompt"].isin(plain_prompts(measured))]
    chosen = chosen[chosen["predicted_iou"].notna()]
    curves: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for (name, prompt), rows in chosen.groupby(["checkpoint", "prompt"], sort=False, observed=True):
        found = calibrate(rows["predicted_iou"], rows["iou"])
        where = {"checkpoint": str(name), "prompt": str(prompt)}
        curves += [
            where | {"predicted_iou": predicted, "iou": iou, "objects": int(count)}
            for predicted, iou, count in zip(
                found.predicted, found.measured, found.counts, strict=True
            )
            if count
        ]
        keys = ("expected_error", "absolute_error", "pearson", "spearman")
        errors.append(where | {key: getattr(found, key) for key in keys})
    return pd.DataFrame(curves), _prompt_by_prompt(errors)


def thresholds(numbers: Numbers) -> Section | None:
    """Mean IoU by the threshold that binarises logits."""
    measured, sweeps = numbers.measured, numbers.measured.sweeps
    if not len(sweeps):
        return None
    best = threshold_table(sweeps, measured.mask_threshold)
    shown = best.assign(prompt=[prompt_label(p) for p in best["prompt"]])
    columns = [
        CHECKPOINT,
        Column("prompt", "prompt"),
        Column("miou", f"mIoU at {measured.mask_threshold:g}", "{:.3f}"),
        Column("best_threshold", "best threshold", "{:g}"),
        Column("best_miou", "mIoU there", "{:.3f}"),
        Column("gain", "gain", "{:+.3f}"),
    ]
    note = (
        "The best threshold is chosen on these very validation images, so its gain is what could "
        "be had at most: on new images expect less. Results above do not use it."
    )
    return Section(
        "thresholds",
        "Threshold",
        "Would another mask_threshold be better?",
        [
            Drawing(plot_thresholds(measured)),
            Table("best_thresholds", columns, shown, note, measured.main),
        ],
    )


def threshold_table(sweeps: pd.DataFrame, mask_threshold: float) -> pd.DataFrame:
    """The best threshold of each what and prompt, against the one nearest to `mask_threshold`.

    Columns checkpoint, prompt, miou, best_threshold, best_miou, gain. Of equal ones the nearest.
    """
    rows: list[dict[str, Any]] = []
    for (name, prompt), some in sweeps.groupby(["checkpoint", "prompt"], sort=False):
        apart = (some["threshold"] - mask_threshold).abs()
        near = some.assign(apart=apart).sort_values("apart", kind="stable")
        used, best = near.iloc[0], near.iloc[int(near["miou"].argmax())]
        rows.append(
            {"checkpoint": name, "prompt": prompt, "miou": used["miou"]}
            | {"best_threshold": best["threshold"], "best_miou": best["miou"]}
            | {"gain": best["miou"] - used["miou"]}
        )
    return _prompt_by_prompt(rows)


def _prompt_by_prompt(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows that compare lie together."""
    order = in_order({row["prompt"] for row in rows})
    rows = sorted(rows, key=lambda row: order.index(row["prompt"]))
    return pd.DataFrame(rows)


def automatic(numbers: Numbers) -> Section | None:
    """Masks that were found without a prompt."""
    table = automatic_table(numbers.measured.objects)
    if not len(table):
        return None
    columns = [
        CHECKPOINT,
        Column("images", "images", "{:d}"),
        Column("objects", "segments", "{:d}"),
        *(Column(key, words.label, "{:.3f}", words.meaning) for key, words in AUTOMATIC.items()),
    ]
    note = ". ".join(f"{words.label}: {words.meaning}" for words in AUTOMATIC.values()) + "."
    return Section(
        "automatic",
        "Automatic masks",
        "What is found when nobody points? A grid of points prompts the whole image; classes play "
        "no part.",
        [Table("automatic", columns, table, note, numbers.measured.main)],
    )


def precision(numbers: Numbers) -> Section | None:
    """AP with the boxes of a detector."""
    table = numbers.measured.precision
    if table is None:
        return None
    measures = [str(name) for name in table if name != "checkpoint"]
    columns = [CHECKPOINT, *(Column(name, name, "{:.3f}") for name in measures)]
    return Section(
        "precision",
        "AP with a detector's boxes",
        "COCO's average precision of masks, prompted by the boxes of a detector. Boxes and scores "
        "are the detector's, so the level is its merit too; compare rows.",
        [Table("precision", columns, table, marked=numbers.measured.main)],
    )
