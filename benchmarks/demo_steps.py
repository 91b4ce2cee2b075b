"""Print time and memory of each step of a finished run, its results, and lines of code.

    python benchmarks/demo_steps.py results/mobile_sam/distill_then_finetune-demo/run.json

Reads what Snakemake measured; run `make demo` on an idle machine first.
"""

import csv
import os
import platform
import sys
from collections import Counter
from pathlib import Path

from mobile_sam.config.load import load_settings
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.results_table import results_table


def main() -> None:
    """Print all three tables."""
    config = load_settings(Path(sys.argv[1]))
    paths = RunPaths(config)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}\n")
    teacher = paths.teacher_weights
    folders = [paths.shared_logs, *([teacher.parent / "benchmarks"] if teacher else [])]
    for folder in [*folders, paths.benchmarks]:
        for path in sorted(folder.glob("*.tsv"), key=lambda p: p.stat().st_mtime):
            with path.open() as file:
                row = next(csv.DictReader(file, delimiter="\t"))
            print(f"{float(row['s']):8.1f} s  {folder.parent.name}/{path.stem}")
    print(f"\n{results_table(config)}\n")
    package = Path(__file__).parents[1] / "mobile_sam"
    lines: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        lines[room] += len(path.read_text().splitlines())
    for room, count in sorted(lines.items()):
        print(f"{count:6d} lines  {room}")


if __name__ == "__main__":
    main()
