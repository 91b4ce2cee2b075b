"""Sections on quality: results, differences, sizes, classes, and the distribution of IoU."""

from collections.abc import Iterable

import pandas as pd

from mobile_sam.report.blocks import Block, Column, Drawing, Explained, Section, Table
from mobile_sam.report.differences import as_table, plot_differences
from mobile_sam.report.measured import Measured
from mobile_sam.report.numbers import Numbers
from mobile_sam.report.plots import plain_prompts, plot_histogram, plot_results, plot_sizes
from mobile_sam.report.tables import by_class
from mobile_sam.report.words import MEASURES, MINUS, PROMPTS, prompt_label

CHECKPOINT = Column("checkpoint", "checkpoint")
_SHORT = ("miou", "boundary_iou")
_MOST_CLASSES = 20  # in a table that is open


def results(numbers: Numbers) -> Section:
    """What everything reaches: box and point first, all prompts and measures folded."""
    measured, summary = numbers.measured, numbers.summary
    plain = plain_prompts(measured)
    short = wide(summary, measured, [(p, m) for p in plain for m in _SHORT])
    scored = [p for p in measured.prompts if p != "noc"]
    full = summary.assign(prompt=[prompt_label(p) for p in summary["prompt"]])
    blocks: list[Block] = [
        Table("", *short, note=_meanings(_SHORT), marked=measured.main),
        Drawing(plot_results(measured, summary)),
        Explained({what.name: what.meaning for what in measured.whats}),
    ]
    if len(scored) > len(plain):
        every = wide(summary, measured, [(p, "miou") for p in scored], with_measure=False)
        blocks += [
            Table(
                "",
                *every,
                note="Mean IoU by every prompt.",
                marked=measured.main,
                folded="Every prompt",
            ),
            Explained(
                {PROMPTS[p].label: PROMPTS[p].meaning for p in scored if p in PROMPTS},
                "What each prompt is",
            ),
        ]
    columns = [CHECKPOINT, Column("prompt", "prompt"), Column("objects", "segments", "{:d}")]
    columns += [Column(m, words.label, "{:.3f}", words.meaning) for m, words in MEASURES.items()]
    blocks.append(
        Table(
            "",
            columns,
            full,
            note=_meanings(MEASURES),
            marked=measured.main,
            folded="Every measure",
        )
    )
    return Section("results", "Results", _how_measured(measured), blocks)


def differences(numbers: Numbers) -> Section | None:
    """Paired differences with intervals."""
    found = numbers.differences
    if not found:
        return None
    table = as_table(found)
    table["pair"] = [f"{d.what} {MINUS} {d.against}" for d in found]
    table["prompt"] = [prompt_label(d.prompt) for d in found]
    columns = [
        Column("pair", "difference of"),
        Column("prompt", "prompt"),
        Column("miou", "mIoU", "{:.3f}"),
        Column("miou_against", "against", "{:.3f}"),
        Column("difference", "difference", "{:+.3f}"),
        Column("low", "from", "{:+.3f}", "lower bound of the 95 % interval"),
        Column("high", "to", "{:+.3f}", "upper bound of the 95 % interval"),
        Column("beyond_chance", "beyond chance"),
    ]
    return Section(
        "differences",
        "Beyond chance?",
        "Both checkpoints are measured on the same segments. The interval says how far the "
        "difference would move with other validation images: it holds 95 % of 2000 resamples of "
        "whole images. When it leaves out zero, the difference is beyond chance. Each interval "
        "stands for itself: of twenty true zeros, one is expected to look real.",
        [Drawing(plot_differences(numbers.measured, found)), Table("", columns, table)],
    )


def sizes(numbers: Numbers) -> Section | None:
    """Quality by the size of segments, and by class where there are classes."""
    measured, table = numbers.measured, numbers.sizes
    plain = plain_prompts(measured)
    shown = table[table["prompt"].isin(plain)]
    frame = shown.assign(prompt=[prompt_label(p) for p in shown["prompt"]])
    columns = [
        CHECKPOINT,
        Column("prompt", "prompt"),
        Column("size", "size"),
        Column("objects", "segments", "{:d}"),
        *(Column(m, MEASURES[m].label, "{:.3f}", MEASURES[m].meaning) for m in _SHORT),
    ]
    blocks: list[Block] = [
        Drawing(plot_sizes(measured, table)),
        Table("", columns, frame, marked=measured.main, folded="In numbers"),
    ]
    classes = by_class(measured.objects)
    if len(classes):
        blocks.append(_class_table(measured, classes))
    title = "By size and class" if len(classes) else "By size"
    return Section("sizes", title, "Where is it good, and where not?", blocks)


def _class_table(measured: Measured, classes: pd.DataFrame) -> Table:
    of_prompt = classes[classes["prompt"] == measured.first_prompt]
    frame = of_prompt.pivot(index="class", columns="checkpoint", values="miou")
    frame.insert(0, "objects", of_prompt.groupby("class")["objects"].first())
    frame = frame.sort_values("objects", ascending=False, kind="stable").reset_index()
    names = [name for name in measured.names if name in frame]
    columns = [Column("class", "class"), Column("objects", "segments", "{:d}")]
    columns += [Column(name, name, "{:.3f}") for name in names]
    note = f"Mean IoU by {prompt_label(measured.first_prompt)}, by class; frequent ones first."
    folded = f"All {len(frame)} classes" if len(frame) > _MOST_CLASSES else ""
    return Table("classes", columns, frame[["class", "objects", *names]], note, folded=folded)


def distribution(numbers: Numbers) -> Section:
    """Histograms of IoU."""
    return Section(
        "distribution",
        "Distribution of IoU",
        "Is it a little wrong everywhere, or very wrong somewhere?",
        [Drawing(plot_histogram(numbers.measured))],
    )


def wide(
    summary: pd.DataFrame,
    measured: Measured,
    cells: list[tuple[str, str]],
    with_measure: bool = True,
) -> tuple[list[Column], pd.DataFrame]:
    """A table with a row for each what and a column for each prompt and measure."""
    columns = [CHECKPOINT]
    frame = pd.DataFrame({"checkpoint": measured.names})
    for prompt, measure in cells:
        values = summary[summary["prompt"] == prompt].set_index("checkpoint")[measure]
        frame[f"{prompt} {measure}"] = frame["checkpoint"].map(values)
        label, words = prompt_label(prompt), MEASURES[measure]
        heading = f"{words.label} by\N{NO-BREAK SPACE}{label}" if with_measure else label
        columns.append(Column(f"{prompt} {measure}", heading, "{:.3f}", words.meaning))
    return columns, frame


def _how_measured(measured: Measured) -> str:
    objects = measured.objects
    of_first = objects[objects["checkpoint"] == measured.main]
    of_first = of_first[of_first["prompt"] == measured.first_prompt]
    images, segments = of_first["image_id"].nunique(), len(of_first)
    prompts = "; ".join(
        f"{prompt_label(p)}: {PROMPTS[p].meaning}" for p in plain_prompts(measured) if p in PROMPTS
    )
    return (
        f"{images} validation images with {segments} segments, each measured at the image's own "
        f"resolution, masks at the threshold {measured.mask_threshold:g}. Prompts are the same for "
        f"all. {prompts}."
    )


def _meanings(names: Iterable[str]) -> str:
    return ". ".join(f"{MEASURES[m].label}: {MEASURES[m].meaning}" for m in names) + "."
