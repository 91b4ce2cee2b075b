"""Table of results that the workflow prints at its end."""

import csv

from mobile_sam.config.run import RunConfig
from mobile_sam.paths import RunPaths


def results_table(config: RunConfig) -> str:
    """Return the path of the report and a short table of mean IoU, as text."""
    report = RunPaths(config).report
    with (report / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["prompt"] in _SHOWN]
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        table.setdefault(row["checkpoint"], {})[row["prompt"]] = f"{float(row['miou']):.3f}"
    width = max(len(name) for name in [*table, "checkpoint"])
    lines = [f"{'checkpoint':<{width}}" + "".join(f"{f'mIoU {p}':>15}" for p in prompts)]
    for name, cells in table.items():
        lines.append(f"{name:<{width}}" + "".join(f"{cells.get(p, '-'):>15}" for p in prompts))
    return "\n".join([f"run {config.run_name}", *lines, f"report: {report / 'index.html'}"])


_SHOWN = ("box", "point", "clicks_3")
