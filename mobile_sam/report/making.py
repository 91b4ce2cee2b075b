"""Sections on what quality takes: cost, training, data, and where everything comes from."""

from mobile_sam.report.blocks import Block, Column, Drawing, Explained, Section, Table, Text
from mobile_sam.report.cost_plots import plot_cost, with_quality
from mobile_sam.report.data_plots import plot_data
from mobile_sam.report.numbers import Numbers
from mobile_sam.report.quality import CHECKPOINT
from mobile_sam.report.training_plots import plot_epochs
from mobile_sam.report.words import DASH, prompt_label


def cost(numbers: Numbers) -> Section | None:
    """Quality beside parameters, time and memory."""
    measured = numbers.measured
    table = with_quality(measured, numbers.summary)
    if not len(table):
        return None
    label = prompt_label(measured.first_prompt)
    table = table.assign(
        millions=table["parameters"] / 1e6, gflops=table["gflops_encoder"] + table["gflops_decoder"]
    )
    columns = [
        CHECKPOINT,
        Column("miou", f"mIoU by {label}", "{:.3f}"),
        Column("encoder_ms", "encoder ms", "{:.1f}", "once an image"),
        Column("decoder_ms", "decoder ms", "{:.1f}", "once a prompt"),
        Column("millions", "parameters, M", "{:.1f}"),
        Column("gflops", "GFLOPs", "{:.1f}", "of an image and a prompt"),
        Column("memory_mib", "memory, MiB", "{:.0f}", "peak"),
        Column("architecture", "architecture"),
    ]
    first = table.iloc[0]
    note = (
        f"Measured on {first['device']}, torch threads: {first['threads']:g}, images of "
        f"{first['img_size']:g} pixels. The encoder runs once an image, the decoder once a prompt. "
        "A stage has the architecture of start, and so its cost."
    )
    return Section(
        "cost",
        "Quality and cost",
        "What does it take to run, beside what it gives?",
        [Drawing(plot_cost(measured, table)), Table("", columns, table, note, measured.main)],
    )


def training(numbers: Numbers) -> Section | None:
    """Epochs and stages."""
    found = numbers.measured.training
    if found is None:
        return None
    columns = [
        _stage_column(str(key))
        for key, values in found.stages.items()
        if values.notna().any() and (key != "run" or values.nunique() > 1)
    ]
    note = (
        f"Between epochs and learning rate: the weights of losses; {DASH} is a loss not in use. "
        "Minutes are those of training alone."
    )
    return Section(
        "training",
        "Training",
        "Did it learn, and was it done?",
        [Drawing(plot_epochs(found.epochs)), Table("stages", columns, found.stages, note)],
    )


def _stage_column(key: str) -> Column:
    if key in {"stage", "run", "epochs"}:
        return Column(key, key)
    how = "{:.1f}" if key == "minutes" else "{:g}"
    return Column(key, {"dice": "Dice", "iou": "IoU"}.get(key, key.replace("_", " ")), how)


def data(numbers: Numbers) -> Section | None:
    """The data set."""
    found = numbers.measured.data
    if found is None:
        return None
    return Section(
        "data",
        "Data",
        "What was it trained and measured on, and what was left out?",
        [Drawing(plot_data(found)), Text("In numbers", found.text())],
    )


def origin(numbers: Numbers) -> Section | None:
    """Versions, commit, settings, and the times of rules."""
    found = numbers.measured.origin
    if found is None:
        return None
    blocks: list[Block] = []
    if found.versions:
        blocks.append(Explained(found.versions))
    if len(found.times):
        columns = [
            Column("rule", "rule"),
            Column("minutes", "minutes", "{:.2f}"),
            Column("memory_mib", "memory, MiB", "{:.0f}", "peak, resident"),
        ]
        total = found.times["minutes"].sum()
        note = f"Together {total:.1f} minutes of jobs, as Snakemake measured them."
        blocks.append(Table("times", columns, found.times, note, folded="Time of each job"))
    blocks += [Text(f"Settings of {run}", words) for run, words in found.settings.items()]
    return Section("origin", "How it was made", "Enough to make it again.", blocks)
