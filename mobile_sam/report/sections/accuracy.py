"""Sections on accuracy: results, differences, sizes, classes, and the distribution of IoU."""

from collections.abc import Iterable

import pandas as pd

from mobile_sam.report.differences import differences_table, plot_differences
from mobile_sam.report.inputs.report_data import ReportData
from mobile_sam.report.labels import METRICS, MINUS, PROMPTS, prompt_label, with_prompt
from mobile_sam.report.plots.accuracy import main_prompts, plot_histogram, plot_results, plot_sizes
from mobile_sam.report.sections.blocks import (
    Block,
    Column,
    Definitions,
    FigureBlock,
    Section,
    Table,
)
from mobile_sam.report.tables import ReportTables, by_class

CHECKPOINT = Column("checkpoint", "checkpoint")
_SHORT = ("miou", "boundary_iou")
_MOST_CLASSES = 20  # larger tables are collapsed


def results(tables: ReportTables) -> Section:
    """Return the results of all checkpoints; further prompts and metrics are collapsed."""
    report, summary = tables.report, tables.summary
    plain = main_prompts(report)
    overview = wide(summary, report, [(p, m) for p in plain for m in _SHORT])
    prompts_with_iou = [p for p in report.prompts if p != "noc"]
    full = summary.assign(prompt=[prompt_label(p) for p in summary["prompt"]])
    blocks: list[Block] = [
        Table("", *overview, note=_descriptions(_SHORT), marked=report.main),
        FigureBlock(plot_results(report, summary)),
        Definitions({checkpoint.name: checkpoint.description for checkpoint in report.checkpoints}),
    ]
    if len(prompts_with_iou) > len(plain):
        all_prompts = wide(
            summary, report, [(p, "miou") for p in prompts_with_iou], with_measure=False
        )
        blocks += [
            Table(
                "",
                *all_prompts,
                note="Mean IoU with each prompt.",
                marked=report.main,
                collapsed="All prompts",
            ),
            Definitions(
                {
                    PROMPTS[p].label: PROMPTS[p].description
                    for p in prompts_with_iou
                    if p in PROMPTS
                },
                "Prompt definitions",
            ),
        ]
    columns = [CHECKPOINT, Column("prompt", "prompt"), Column("objects", "objects", "{:d}")]
    columns += [
        Column(m, metric.label, "{:.3f}", metric.description) for m, metric in METRICS.items()
    ]
    blocks.append(
        Table(
            "",
            columns,
            full,
            note=_descriptions(METRICS),
            marked=report.main,
            collapsed="All metrics",
        )
    )
    return Section("results", "Results", _how_measured(report), blocks)


def differences(tables: ReportTables) -> Section | None:
    """Return paired differences with intervals and p-values."""
    comparisons = tables.differences
    if not comparisons:
        return None
    table = differences_table(comparisons)
    table["pair"] = [f"{d.checkpoint} {MINUS} {d.against}" for d in comparisons]
    table["prompt"] = [prompt_label(d.prompt) for d in comparisons]
    unit = "whole groups of images" if tables.report.groups else "whole images"
    columns = [
        Column("pair", "comparison"),
        Column("prompt", "prompt"),
        Column("miou", "mIoU of first", "{:.3f}"),
        Column("miou_against", "mIoU of second", "{:.3f}"),
        Column("difference", "difference", "{:+.3f}"),
        Column("low", "CI low", "{:+.3f}", "lower bound of the 95 % confidence interval"),
        Column("high", "CI high", "{:+.3f}", "upper bound of the 95 % confidence interval"),
        Column(
            "adjusted_p", "adjusted p", "{:.2g}", "Holm-adjusted for all comparisons of this page"
        ),
        Column("verdict", "result"),
    ]
    return Section(
        "differences",
        "Significance",
        "Paired differences in mean IoU with 95 % confidence intervals. Intervals and p-values "
        f"cover variation between validation images of the same kind, with {unit} as the unit, but "
        "not between training seeds, for which you need runs with other seeds. p-values are "
        "those of exact sign-flip tests, Holm-adjusted for all comparisons on this page. A "
        "difference is significant if its adjusted p is at most 0.05; at most 5 % of pages without "
        "any true difference show a significant one. Each interval is for its comparison alone, so "
        "it can exclude 0 although the adjusted p is above 0.05.",
        [FigureBlock(plot_differences(tables.report, comparisons)), Table("", columns, table)],
    )


def sizes(tables: ReportTables) -> Section | None:
    """Return accuracy by object size, and by class if there are classes."""
    report, table = tables.report, tables.sizes
    plain = main_prompts(report)
    selected = table[table["prompt"].isin(plain)]
    frame = selected.assign(prompt=[prompt_label(p) for p in selected["prompt"]])
    columns = [
        CHECKPOINT,
        Column("prompt", "prompt"),
        Column("size", "size"),
        Column("objects", "objects", "{:d}"),
        *(Column(m, METRICS[m].label, "{:.3f}", METRICS[m].description) for m in _SHORT),
    ]
    blocks: list[Block] = [
        FigureBlock(plot_sizes(report, table)),
        Table("", columns, frame, marked=report.main, collapsed="Table"),
    ]
    classes = by_class(report.objects)
    if len(classes):
        blocks.append(_class_table(report, classes))
    title = "By size and class" if len(classes) else "By size"
    return Section(
        "sizes",
        title,
        "Accuracy by object size, in COCO's size ranges, and by class if the data have classes.",
        blocks,
    )


def _class_table(report: ReportData, classes: pd.DataFrame) -> Table:
    rows = classes[classes["prompt"] == report.first_prompt]
    frame = rows.pivot(index="class", columns="checkpoint", values="miou")
    frame.insert(0, "objects", rows.groupby("class")["objects"].first())
    frame = frame.sort_values("objects", ascending=False, kind="stable").reset_index()
    names = [name for name in report.names if name in frame]
    columns = [Column("class", "class"), Column("objects", "objects", "{:d}")]
    columns += [Column(name, name, "{:.3f}") for name in names]
    note = f"Mean IoU with {with_prompt(report.first_prompt)} by class, most frequent first."
    collapsed = f"All {len(frame)} classes" if len(frame) > _MOST_CLASSES else ""
    return Table("classes", columns, frame[["class", "objects", *names]], note, collapsed=collapsed)


def distribution(tables: ReportTables) -> Section:
    """Return histograms of IoU."""
    return Section(
        "distribution",
        "Distribution of IoU",
        "Shows whether all objects have small errors or a few have large ones.",
        [FigureBlock(plot_histogram(tables.report))],
    )


def wide(
    summary: pd.DataFrame,
    report: ReportData,
    cells: list[tuple[str, str]],
    with_measure: bool = True,
) -> tuple[list[Column], pd.DataFrame]:
    """Return a table with one row per checkpoint and one column per prompt and metric."""
    columns = [CHECKPOINT]
    frame = pd.DataFrame({"checkpoint": report.names})
    for prompt, measure in cells:
        values = summary[summary["prompt"] == prompt].set_index("checkpoint")[measure]
        frame[f"{prompt} {measure}"] = frame["checkpoint"].map(values)
        label, metric = prompt_label(prompt), METRICS[measure]
        heading = f"{metric.label}, {label}" if with_measure else label
        columns.append(Column(f"{prompt} {measure}", heading, "{:.3f}", metric.description))
    notes = [checkpoint.note for checkpoint in report.checkpoints]
    if any(notes):
        columns.append(Column("note", "note"))
        frame["note"] = notes
    return columns, frame


def _how_measured(report: ReportData) -> str:
    objects = report.objects
    rows = objects[objects["checkpoint"] == report.main]
    rows = rows[rows["prompt"] == report.first_prompt]
    images, objects_count = rows["image_id"].nunique(), len(rows)
    prompts = ". ".join(
        f"{prompt_label(p)}: {PROMPTS[p].description}" for p in main_prompts(report) if p in PROMPTS
    )
    return (
        f"{images} validation images with {objects_count} objects, evaluated at the original "
        f"resolution with mask threshold {report.mask_threshold:g}. All checkpoints get the same "
        f"prompts. {prompts}."
    )


def _descriptions(names: Iterable[str]) -> str:
    return ". ".join(f"{METRICS[m].label}: {METRICS[m].description}" for m in names) + "."
