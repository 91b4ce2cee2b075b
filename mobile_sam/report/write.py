"""The three reports: of a run, of several runs side by side, and of tables of whatever weights."""

from collections.abc import Sequence
from pathlib import Path

from mobile_sam.config import RunConfig
from mobile_sam.layout import RunPaths
from mobile_sam.plan import results_table
from mobile_sam.report.measured import Measured
from mobile_sam.report.of_run import measured_run
from mobile_sam.report.of_runs import measured_runs
from mobile_sam.report.of_tables import measured_tables
from mobile_sam.report.page import write_page
from mobile_sam.report.plots import plain_prompts
from mobile_sam.report.tables import summary
from mobile_sam.report.words import prompt_label


def write_report(config: RunConfig) -> str:
    """Draw the report of a run whose tables exist; trains nothing.

    Writes index.html, and the PNG and CSV of each picture and table. Returns the results for a
    terminal.
    """
    write_page(measured_run(config), RunPaths(config).report)
    return results_table(config)


def write_comparison(configs: Sequence[RunConfig], target: Path) -> str:
    """Draw one report of several runs over the same data set into the directory `target`.

    Returns the results for a terminal. Raises ConfigError when the runs do not compare.
    """
    measured = measured_runs(configs)
    write_page(measured, target)
    return _for_terminal(measured, target)


def write_evaluation(
    tables: Sequence[Path],
    target: Path,
    title: str,
    mask_threshold: float = 0.0,
    examples: int = 6,
) -> str:
    """Draw the report of tables of one data set into the directory `target`.

    The page is about the first table that is not of the filled box. Returns the results for a
    terminal.
    """
    measured = measured_tables(tables, title, mask_threshold, examples)
    write_page(measured, target)
    return _for_terminal(measured, target)


def _for_terminal(measured: Measured, target: Path) -> str:
    """The page's path and a table of mIoU."""
    table, prompts = summary(measured.objects), plain_prompts(measured)
    cells = {(row.checkpoint, row.prompt): f"{row.miou:.3f}" for row in table.itertuples()}
    width = max(len(name) for name in [*measured.names, "checkpoint"])
    heads = "".join(f"{f'mIoU {prompt_label(prompt)}':>14}" for prompt in prompts)
    lines = [measured.title, f"{'checkpoint':<{width}}{heads}"]
    for name in measured.names:
        lines.append(
            f"{name:<{width}}" + "".join(f"{cells.get((name, p), '-'):>14}" for p in prompts)
        )
    return "\n".join([*lines, f"report: {target / 'index.html'}"])
