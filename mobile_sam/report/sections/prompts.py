"""Sections on prompts: clicks, automatic masks, AP, calibration, thresholds."""

from typing import Any

import pandas as pd

from mobile_sam.metrics.calibration import calibration as calibrate
from mobile_sam.report.inputs.report_data import ReportData
from mobile_sam.report.labels import AUTOMATIC_METRICS, prompt_label, sort_prompts
from mobile_sam.report.plots.accuracy import main_prompts, plot_calibration, plot_thresholds
from mobile_sam.report.plots.clicks import plot_clicks
from mobile_sam.report.sections.accuracy import CHECKPOINT
from mobile_sam.report.sections.blocks import Block, Column, FigureBlock, Section, Table
from mobile_sam.report.tables import ReportTables
from mobile_sam.report.tables import automatic as automatic_table
from mobile_sam.report.tables import clicks as clicks_table


def clicks(tables: ReportTables) -> Section | None:
    """Return IoU after some clicks, and clicks until an IoU."""
    report = tables.report
    if not {"clicks_5", "noc"} & set(report.prompts):
        return None
    blocks: list[Block] = [FigureBlock(plot_clicks(report, tables.summary))]
    if "noc" in report.prompts:
        columns = [CHECKPOINT, Column("objects", "objects", "{:d}")]
        for limit in (80, 90):
            never = f"share of objects below IoU 0.{limit} after 20 clicks"
            columns += [
                Column(f"noc_{limit}", f"NoC@{limit}", "{:.2f}", f"clicks until IoU 0.{limit}"),
                Column(f"never_{limit}", f"failed@{limit}", "{:.1%}", never),
            ]
        note = (
            "NoC@80 and NoC@90: mean number of clicks until IoU 0.80 and 0.90; an object that does "
            "not reach it counts as 20 clicks. failed@80 and failed@90: share of such objects. "
            "Lower is better."
        )
        table = clicks_table(report.objects)
        blocks.append(Table("noc", columns, table, note, report.main))
    text = (
        "Simulated corrective clicks: the first is on the deepest pixel of the object, each later "
        "one on the deepest pixel of the largest error, with the previous mask as a prompt. If "
        "clicks reduce the IoU, the model was not trained with them: see prompt_rounds and "
        "prompts.mask."
    )
    clicked = report.objects[report.objects["prompt"].isin(["clicks_5", "noc"])]
    sample, objects = (
        len(rows[["image_id", "segment_id"]].drop_duplicates())
        for rows in (clicked, report.objects)
    )
    if sample < objects:
        text += f" They are on a random sample of {sample:,} of {objects:,} objects: click_objects."
    return Section("clicks", "Clicks", text, blocks)


def calibration(tables: ReportTables) -> Section | None:
    """Return the calibration of the predicted IoU."""
    report = tables.report
    curves, errors = calibration_tables(report)
    if not len(errors):
        return None
    labelled = errors.assign(prompt=[prompt_label(p) for p in errors["prompt"]])
    columns = [
        CHECKPOINT,
        Column("prompt", "prompt"),
        Column(
            "expected_error",
            "ECE",
            "{:.3f}",
            "expected calibration error: mean distance from the grey line",
        ),
        Column(
            "absolute_error", "mean absolute error", "{:.3f}", "of the predicted IoU, over objects"
        ),
        Column("pearson", "Pearson", "{:.2f}", "correlation of predicted and measured IoU"),
        Column("spearman", "Spearman", "{:.2f}", "rank correlation of predicted and measured IoU"),
    ]
    note = (
        "ECE, the expected calibration error: distance of the curve from the grey line, weighted "
        "by number of objects; lower is better. Spearman: 1 if better masks always have a higher "
        "predicted IoU, which matters for selecting one of several masks."
    )
    return Section(
        "calibration",
        "Calibration",
        "Compares the IoU that the model predicts for each mask with the measured IoU.",
        [
            FigureBlock(plot_calibration(report, curves)),
            Table("calibration_errors", columns, labelled, note, report.main),
        ],
    )


def calibration_tables(report: ReportData) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return curves, one row per non-empty bin, and errors, one row per curve.

    Columns checkpoint, prompt; of curves predicted_iou, iou, objects; of errors expected_error,
    absolute_error, pearson, spearman.
    """
    selected = report.objects[report.objects["prompt"].isin(main_prompts(report))]
    selected = selected[selected["predicted_iou"].notna()]
    curves: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for (name, prompt), rows in selected.groupby(
        ["checkpoint", "prompt"], sort=False, observed=True
    ):
        result = calibrate(rows["predicted_iou"], rows["iou"])
        labels = {"checkpoint": str(name), "prompt": str(prompt)}
        curves += [
            labels | {"predicted_iou": predicted, "iou": iou, "objects": int(count)}
            for predicted, iou, count in zip(
                result.predicted, result.measured, result.counts, strict=True
            )
            if count
        ]
        keys = ("expected_error", "absolute_error", "pearson", "spearman")
        errors.append(labels | {key: getattr(result, key) for key in keys})
    return pd.DataFrame(curves), _prompt_by_prompt(errors)


def thresholds(tables: ReportTables) -> Section | None:
    """Return mean IoU by the threshold that binarises logits."""
    report, sweeps = tables.report, tables.report.sweeps
    if not len(sweeps):
        return None
    best = threshold_table(sweeps, report.mask_threshold)
    labelled = best.assign(prompt=[prompt_label(p) for p in best["prompt"]])
    columns = [
        CHECKPOINT,
        Column("prompt", "prompt"),
        Column("miou", f"mIoU at {report.mask_threshold:g}", "{:.3f}"),
        Column("best_threshold", "best threshold", "{:g}"),
        Column("best_miou", "mIoU at best", "{:.3f}"),
        Column("gain", "gain", "{:+.3f}"),
    ]
    note = (
        "The best threshold is selected on these validation images, so its gain is overestimated: "
        "expect less on new images. The results above do not use it."
    )
    return Section(
        "thresholds",
        "Mask threshold",
        "Effect of mask_threshold on mean IoU.",
        [
            FigureBlock(plot_thresholds(report)),
            Table("best_thresholds", columns, labelled, note, report.main),
        ],
    )


def threshold_table(sweeps: pd.DataFrame, mask_threshold: float) -> pd.DataFrame:
    """Return the best threshold of each checkpoint and prompt, and the gain over the one in use.

    Columns checkpoint, prompt, miou, best_threshold, best_miou, gain. miou is that of the threshold
    nearest to `mask_threshold`; of equally good thresholds the nearest is returned.
    """
    rows: list[dict[str, Any]] = []
    for (name, prompt), sweep in sweeps.groupby(["checkpoint", "prompt"], sort=False):
        distance = (sweep["threshold"] - mask_threshold).abs()
        nearest = sweep.assign(distance=distance).sort_values("distance", kind="stable")
        used, best = nearest.iloc[0], nearest.iloc[int(nearest["miou"].argmax())]
        rows.append(
            {"checkpoint": name, "prompt": prompt, "miou": used["miou"]}
            | {"best_threshold": best["threshold"], "best_miou": best["miou"]}
            | {"gain": best["miou"] - used["miou"]}
        )
    return _prompt_by_prompt(rows)


def _prompt_by_prompt(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Sort rows by prompt, so that comparable rows are adjacent."""
    order = sort_prompts({row["prompt"] for row in rows})
    rows = sorted(rows, key=lambda row: order.index(row["prompt"]))
    return pd.DataFrame(rows)


def automatic(tables: ReportTables) -> Section | None:
    """Return AR and ABO of masks found without prompts."""
    table = automatic_table(tables.report.objects)
    if not len(table):
        return None
    columns = [
        CHECKPOINT,
        Column("images", "images", "{:d}"),
        Column("objects", "objects", "{:d}"),
        *(
            Column(key, metric.label, "{:.3f}", metric.description)
            for key, metric in AUTOMATIC_METRICS.items()
        ),
    ]
    note = (
        ". ".join(f"{metric.label}: {metric.description}" for metric in AUTOMATIC_METRICS.values())
        + "."
    )
    return Section(
        "automatic",
        "Automatic masks",
        "Masks from a grid of point prompts over the whole image, matched to objects regardless of "
        "class.",
        [Table("automatic", columns, table, note, tables.report.main)],
    )


def precision(tables: ReportTables) -> Section | None:
    """Return AP with the boxes of a detector."""
    table = tables.report.precision
    if table is None:
        return None
    measures = [str(name) for name in table if name != "checkpoint"]
    columns = [CHECKPOINT, *(Column(name, name, "{:.3f}") for name in measures)]
    return Section(
        "precision",
        "Average precision with a detector's boxes",
        "COCO's average precision of masks prompted with the boxes of a detector. The level also "
        "depends on the detector's boxes and scores; compare rows.",
        [Table("precision", columns, table, marked=tables.report.main)],
    )
