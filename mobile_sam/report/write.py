"""Writers of the three reports: of one run, of several runs, and of tables of any weights."""

from collections.abc import Sequence
from pathlib import Path

from mobile_sam.config.checkpoints import BOX_FILLED
from mobile_sam.config.run import RunConfig
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.results_table import results_table
from mobile_sam.report.inputs.from_run import read_run
from mobile_sam.report.inputs.from_runs import read_runs
from mobile_sam.report.inputs.from_sweep import read_sweep_runs
from mobile_sam.report.inputs.reading import (
    concat_objects,
    read_average_precision,
    read_costs,
    read_objects,
    read_sweeps,
    table_name,
)
from mobile_sam.report.inputs.report_data import Checkpoint, ReportData
from mobile_sam.report.labels import FILLED_BOX, prompt_label
from mobile_sam.report.page import write_page, write_sweep_page
from mobile_sam.report.plots.accuracy import main_prompts
from mobile_sam.report.sweep_statistics import rankings, verdict
from mobile_sam.report.tables import summary
from mobile_sam.system.directories import mark_output
from mobile_sam.system.errors import UserError
from mobile_sam.system.finished_results import discard_all


def read_tables(
    tables: Sequence[Path],
    title: str,
    mask_threshold: float = 0.0,
    examples: int = 6,
    costs: Path | None = None,
    groups: str | None = None,
) -> ReportData:
    """Read tables of one data set; the page is about the first that is not the filled box.

    costs: the cost of their models, as `evaluation.cost` writes it. groups: as `data.groups`.
    Raises UserError for two tables with the same name, or if there is only the filled box.
    """
    names = [table_name(path) for path in tables]
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise UserError(
            f"there are several tables of {duplicates[0]}; give each checkpoint its own name"
        )
    checkpoints = tuple(_checkpoint(name, path) for name, path in zip(names, tables, strict=True))
    models = [checkpoint.name for checkpoint in checkpoints if checkpoint.kind != "baseline"]
    if not models:
        raise UserError(
            f"{', '.join(map(str, tables))}: no table of a model, only of the filled box; add one"
        )
    main, *others = models
    paths = dict(zip(names, tables, strict=True))
    return ReportData(
        title=title,
        checkpoints=checkpoints,
        main=main,
        pairs=tuple((main, name) for name in names if name != main),
        steps=tuple((main, other) for other in others),
        worse=f"Images where another checkpoint is better than {main}",
        objects=concat_objects([read_objects(path, name) for name, path in paths.items()]),
        sweeps=read_sweeps(paths),
        mask_threshold=mask_threshold,
        examples=examples,
        precision=read_average_precision(paths),
        costs=None if costs is None else read_costs(costs),
        groups=groups,
    )


def _checkpoint(name: str, path: Path) -> Checkpoint:
    if name == BOX_FILLED:
        return Checkpoint(
            name,
            "baseline",
            FILLED_BOX,
            path,
        )
    return Checkpoint(name, "compared", f"the table {path.name}", path)


def write_report(config: RunConfig) -> str:
    """Write the report of a run whose tables exist; trains nothing.

    Writes index.html, and the PNG and CSV of each figure and table. Returns the results for a
    terminal.
    """
    report, target = read_run(config), RunPaths(config).report
    mark_output(target)
    write_page(report, target)
    discard_all(RunPaths(config).finished_tables)
    return results_table(config)


def write_comparison(configs: Sequence[RunConfig], target: Path) -> str:
    """Write one report of several runs on the same data set into the directory `target`.

    Returns the results for a terminal. Raises ConfigError if the runs are not comparable.
    """
    report = read_runs(configs)
    mark_output(target)
    write_page(report, target)
    return _for_terminal(report, target)


def write_sweep(manifest: Path) -> str:
    """Write the report of the variants in a `sweep.json`, beside it, of those that have results.

    Returns the verdict for a terminal. Raises UserError if no variant has results.
    """
    sweep, target = read_sweep_runs(manifest), manifest.with_name("report")
    mark_output(target)
    tables = rankings(sweep)
    write_sweep_page(sweep, tables, target)
    failed = [f"without results: {', '.join(sweep.missing)}"] if sweep.missing else []
    lines = [sweep.title, *verdict(sweep, tables), *failed, f"report: {target / 'index.html'}"]
    return "\n".join(lines)


def write_evaluation(
    tables: Sequence[Path],
    target: Path,
    title: str,
    mask_threshold: float = 0.0,
    examples: int = 6,
    costs: Path | None = None,
    groups: str | None = None,
) -> str:
    """Write the report of tables of one data set into the directory `target`.

    The page is about the first table that is not the filled box. costs: a `cost.csv` of their
    models. groups: as `data.groups`. Returns the results for a terminal.
    """
    report = read_tables(tables, title, mask_threshold, examples, costs, groups)
    mark_output(target)
    write_page(report, target)
    return _for_terminal(report, target)


def _for_terminal(report: ReportData, target: Path) -> str:
    """Return a table of mIoU and the path of the page, as text."""
    table, prompts = summary(report.objects), main_prompts(report)
    cells = {(row.checkpoint, row.prompt): f"{row.miou:.3f}" for row in table.itertuples()}
    width = max(len(name) for name in [*report.names, "checkpoint"])
    headings = "".join(f"{f'mIoU {prompt_label(prompt)}':>14}" for prompt in prompts)
    lines = [report.title, f"{'checkpoint':<{width}}{headings}"]
    for name in report.names:
        lines.append(
            f"{name:<{width}}" + "".join(f"{cells.get((name, p), '-'):>14}" for p in prompts)
        )
    return "\n".join([*lines, f"report: {target / 'index.html'}"])
