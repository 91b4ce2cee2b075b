"""Page about the variants of a run."""

import pandas as pd

from mobile_sam.config.sweep import RECIPE
from mobile_sam.metrics.intervals import LEVEL
from mobile_sam.report.inputs.from_sweep import SweepData
from mobile_sam.report.labels import with_prompt
from mobile_sam.report.plots.sweep import (
    plot_latency,
    plot_learning,
    plot_main_effects,
    plot_ranking,
    plot_time,
)
from mobile_sam.report.sections.blocks import (
    Block,
    Column,
    Definitions,
    FigureBlock,
    Section,
    Table,
)
from mobile_sam.report.sweep_statistics import Rankings, interactions, main_effects, value_text

_MOST_LINES = 8  # learning curves


def sections(sweep: SweepData, tables: Rankings) -> list[Section]:
    """Return the sections of the page; those without data are left out."""
    made = [
        _results(sweep, tables),
        _effects(sweep),
        _cost(sweep, tables[sweep.first_prompt]),
        _learning(sweep, tables[sweep.first_prompt]),
        _stopped(sweep),
        _missing(sweep),
    ]
    return [section for section in made if section is not None]


def _results(sweep: SweepData, tables: dict[str, pd.DataFrame]) -> Section:
    blocks: list[Block] = [FigureBlock(plot_ranking(sweep, tables))]
    for prompt, table in tables.items():
        shown = table.assign(**{key: table[key].map(value_text) for key in sweep.keys})
        shown["verdict"] = [_verdict(p) for p in table["adjusted_p"].astype(float)]
        columns = [Column("combination", "combination"), *(Column(k, k) for k in sweep.keys)]
        columns += [Column("seeds", "seeds", "{:d}"), Column("miou", "mIoU", "{:.3f}")]
        columns += [Column("low", "from", "{:.3f}"), Column("high", "to", "{:.3f}")]
        columns += [
            Column("difference", "vs. best", "{:+.3f}"),
            Column("adjusted_p", "adjusted p", "{:.2g}"),
            Column("verdict", "difference"),
        ]
        note = (
            f"Mean IoU with {with_prompt(prompt)}, with 95 % intervals over seeds and images, and "
            "paired differences to the best combination. p-values are adjusted after Holm for all "
            "pairs of combinations."
        )
        name = "variants" if prompt == sweep.first_prompt else f"variants_{prompt}"
        collapsed = "" if prompt == sweep.first_prompt else f"Table of {with_prompt(prompt)}"
        best = str(table["combination"].iloc[0])
        blocks.append(Table(name, columns, shown, note, marked=best, collapsed=collapsed))
    return Section("results", "Results", _how_measured(sweep), blocks)


def _verdict(adjusted_p: float) -> str:
    if pd.isna(adjusted_p):
        return "the best"
    return "significant" if adjusted_p <= LEVEL else "not significant"


def _how_measured(sweep: SweepData) -> str:
    scores = next(iter(sweep.scores[sweep.first_prompt].values()))
    seeds = f"{sweep.seeds} seeds" if sweep.seeds > 1 else "one seed"
    only = "" if sweep.seeds > 1 else " Intervals are over images only."
    return (
        f"{len(sweep.combinations)} combinations with {seeds}, evaluated on "
        f"{len(scores.counts)} images or groups with {int(scores.counts.sum())} objects.{only}"
    )


def _effects(sweep: SweepData) -> Section | None:
    if len(sweep.stopped):
        return None  # values are combined with different ones of the other keys
    if sweep.keys == (RECIPE,):
        return None  # the ranking says the same
    effects = main_effects(sweep, sweep.first_prompt)
    if effects.empty:
        return None
    blocks: list[Block] = [FigureBlock(plot_main_effects(sweep, effects))]
    pairs = interactions(sweep, sweep.first_prompt)
    if len(pairs):
        columns = [Column("keys", "keys"), Column("values", "values")]
        columns += [Column("deviation", "deviation", "{:+.3f}")]
        columns += [Column("low", "from", "{:+.3f}"), Column("high", "to", "{:+.3f}")]
        columns += [Column("adjusted_p", "adjusted p", "{:.2g}")]
        note = (
            "For each pair of keys, the values whose mean IoU deviates most from the sum of both "
            "effects. A large deviation means that the best value of one key depends on the other."
        )
        blocks.append(Table("interactions", columns, pairs, note))
    return Section("effects", "Effect of each key", "", blocks)


def _cost(sweep: SweepData, table: pd.DataFrame) -> Section:
    rows = sweep.cost.merge(table[["combination", "miou"]], on="combination")
    figures: list[Block] = [FigureBlock(plot_time(rows))]
    if "latency_ms" in rows:
        figures.append(FigureBlock(plot_latency(rows.dropna(subset="latency_ms"))))
    return Section("cost", "Accuracy and cost", "", figures)


def _learning(sweep: SweepData, table: pd.DataFrame) -> Section | None:
    if sweep.epochs.empty:
        return None
    shown = [str(name) for name in table["combination"][:_MOST_LINES]]
    left_out = len(table) - len(shown)
    note = f"The best {len(shown)} combinations." if left_out else ""
    return Section("learning", "Learning curves", note, [FigureBlock(plot_learning(sweep, shown))])


def _stopped(sweep: SweepData) -> Section | None:
    if sweep.stopped.empty:
        return None
    columns = [Column("combination", "combination"), Column("epoch", "stopped after epoch", "{:d}")]
    columns += [Column("iou", "validation IoU then", "{:.3f}")]
    rows = sweep.stopped.sort_values(["epoch", "iou"], ascending=False)
    note = (
        "Successive halving (sweep_stop) compared them with the others by the validation IoU "
        "during training, averaged over seeds and folds; a dash means that a training diverged. A "
        "combination that learns slowly at first can be better in the end; to be sure, give later "
        "epochs, or remove sweep_stop. The effect of each key is not shown, because the values of "
        "a key that remain are combined with different values of the others."
    )
    return Section("stopped", "Stopped early", note, [Table("stopped", columns, rows)])


def _missing(sweep: SweepData) -> Section | None:
    if not sweep.missing:
        return None
    note = "They are not in the tables and figures. Run the same command again to continue them."
    return Section("missing", "Variants without results", note, [Definitions(sweep.missing)])
