"""Sections on cost, training, data and reproducibility."""

from mobile_sam.report.labels import DASH, prompt_label
from mobile_sam.report.plots.cost import cost_table, plot_cost
from mobile_sam.report.plots.data import plot_data
from mobile_sam.report.plots.training import plot_epochs
from mobile_sam.report.sections.accuracy import CHECKPOINT
from mobile_sam.report.sections.blocks import (
    Block,
    Column,
    Definitions,
    FigureBlock,
    Section,
    Table,
    Text,
)
from mobile_sam.report.tables import ReportTables


def cost(tables: ReportTables) -> Section | None:
    """Return accuracy with parameters, latency and memory."""
    report = tables.report
    table = cost_table(report, tables.summary)
    if not len(table):
        return None
    label = prompt_label(report.first_prompt)
    table = table.assign(
        millions=table["parameters"] / 1e6, gflops=table["gflops_encoder"] + table["gflops_decoder"]
    )
    columns = [
        CHECKPOINT,
        Column("miou", f"mIoU, {label}", "{:.3f}"),
        Column("encoder_ms", "encoder ms", "{:.1f}", "once per image"),
        Column("decoder_ms", "decoder ms", "{:.1f}", "once per prompt"),
        Column("millions", "parameters, M", "{:.1f}"),
        Column("gflops", "GFLOPs", "{:.1f}", "one image with one prompt"),
        Column("memory_mib", "memory, MiB", "{:.0f}", "peak"),
        Column("architecture", "architecture"),
    ]
    first = table.iloc[0]
    note = (
        f"Measured on {first['device']} with {first['threads']:g} torch threads at "
        f"{first['img_size']:g} pixels. The encoder runs once per image, the decoder once per "
        "prompt. Stages have the same architecture and cost as start."
    )
    return Section(
        "cost",
        "Accuracy and cost",
        "Mean IoU versus latency, parameters and memory.",
        [FigureBlock(plot_cost(report, table)), Table("", columns, table, note, report.main)],
    )


def training(tables: ReportTables) -> Section | None:
    """Return epochs and stages."""
    training_data = tables.report.training
    if training_data is None:
        return None
    columns = [
        _stage_column(str(key))
        for key, values in training_data.stages.items()
        if values.notna().any() and (key != "run" or values.nunique() > 1)
    ]
    note = (
        f"The columns between epochs and learning rate are loss weights; {DASH}: the loss is not "
        "used. Minutes are training time only."
    )
    return Section(
        "training",
        "Training",
        "Losses and validation IoU during training, and the settings of each stage.",
        [
            FigureBlock(plot_epochs(training_data.epochs)),
            Table("stages", columns, training_data.stages, note),
        ],
    )


def _stage_column(key: str) -> Column:
    if key in {"stage", "run", "epochs"}:
        return Column(key, key)
    number_format = "{:.1f}" if key == "minutes" else "{:g}"
    return Column(
        key, {"dice": "Dice", "iou": "IoU"}.get(key, key.replace("_", " ")), number_format
    )


def data(tables: ReportTables) -> Section | None:
    """Return the contents of the data set."""
    dataset = tables.report.data
    if dataset is None:
        return None
    return Section(
        "data",
        "Data",
        "Images and objects used for training and validation, and what was excluded.",
        [FigureBlock(plot_data(dataset)), Text("Summary", dataset.text())],
    )


def origin(tables: ReportTables) -> Section | None:
    """Return versions, commit, settings, and the run times of rules."""
    provenance = tables.report.origin
    if provenance is None:
        return None
    blocks: list[Block] = []
    if provenance.versions:
        blocks.append(Definitions(provenance.versions))
    if len(provenance.times):
        columns = [
            Column("rule", "rule"),
            Column("minutes", "minutes", "{:.2f}"),
            Column("memory_mib", "memory, MiB", "{:.0f}", "peak, resident"),
        ]
        total = provenance.times["minutes"].sum()
        note = f"Total: {total:.1f} minutes, measured by Snakemake."
        blocks.append(
            Table("times", columns, provenance.times, note, collapsed="Run time of each job")
        )
    blocks += [Text(f"Settings of {run}", text) for run, text in provenance.settings.items()]
    return Section("origin", "Reproducibility", "Versions, settings and run times.", blocks)
