"""Print the overhead of the workflow.

    python benchmarks/overhead.py [--overlay demo] [--cores 2] [--keep DIRECTORY]

Runs `run=distill_then_finetune` from nothing in an empty directory, then once more with nothing to
do, then each verb alone. Imports are counted by Python itself (`-X importtime`), those that a verb
makes late included; they are the start-up of a verb, with the start of the interpreter.
Overhead of the workflow: seconds in which no job ran, and the start-up of all jobs.
"""

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

RUN = "distill_then_finetune"
ROOT = Path(__file__).parents[1]
ROUNDS = 5
VERBS = {
    "index": ("--workers", "1"),
    "index --summary": (),
    "extract --step plan": (),
    "extract --step part": (),
    "extract --step finish": (),
    "train": (),
    "export": (),
    "validate --checkpoint box_filled": (),
    "validate --checkpoint start": (),
    "report": (),
}


def main() -> None:
    """Print three tables: the workflow, nothing to do, and the verbs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--overlay", default="demo")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="a directory of an earlier call, run again")
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    directory = args.keep or Path(tempfile.mkdtemp())
    snakemake = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--directory", str(directory), "--cores", str(args.cores)),
        *("--config", f"run={RUN}", f"overlay={args.overlay}"),
    ]
    if not (directory / "results").exists():
        print_workflow(snakemake, directory)
    print_nothing_to_do(snakemake)
    print_verbs(directory / f"results/mobile_sam/{RUN}-{args.overlay}/run.json")
    if not args.keep:
        shutil.rmtree(directory)


def print_workflow(snakemake: Sequence[str], directory: Path) -> None:
    """A whole run, and what of it no job and no import accounts for."""
    began = time.time()
    imports = seconds_of_imports(snakemake)
    ended = time.time()
    jobs = [
        (path.stat().st_mtime - seconds, path.stat().st_mtime)
        for path in (directory / "results").rglob("*.tsv")
        for seconds in pd.read_csv(path, sep="\t")["s"]
    ]
    idle = (ended - began) - covered(jobs)
    working = sum(end - start for start, end in jobs)
    interpreters = len(jobs) * bare_start()
    overhead = idle + imports + interpreters
    print(
        f"\nthe workflow from nothing: {ended - began:.0f} s, {len(jobs)} jobs of {working:.0f} s"
    )
    print(f"  no job at work    {idle:6.1f} s")
    print(f"  imports           {imports:6.1f} s, those of Snakemake included")
    print(f"  interpreters      {interpreters:6.1f} s")
    print(f"  overhead          {overhead:6.1f} s, {overhead / (working + idle):.1%}")


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Seconds that lie in any of the intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def print_nothing_to_do(snakemake: Sequence[str]) -> None:
    """The same command once more, and the import of Snakemake alone."""
    again = median_seconds(snakemake)
    # What `snakemake` imports before it looks at a Snakefile.
    alone = median_seconds([sys.executable, "-m", "snakemake", "--version"])
    print(f"\nnothing to do: {again:.2f} s, {again - alone:.2f} s beyond `snakemake --version`")


def print_verbs(settings: Path) -> None:
    """Start-up of each verb on the finished run; what is there is not computed again."""
    start = bare_start()
    libraries = "import torch, timm, lightning_fabric"
    bare = start + median_imports([sys.executable, "-c", libraries])
    print(f"\nstart-up, seconds (`{libraries}` alone: {bare:.2f}):")
    for verb, options in VERBS.items():
        name, *more = verb.split()
        command = [sys.executable, "-m", "mobile_sam", name, "--config", str(settings)]
        seconds = start + median_imports([*command, *more, *options], settings.parents[3])
        print(f"  {verb:28} {seconds:6.2f}")


def bare_start() -> float:
    """Seconds of a Python that does nothing."""
    return median_seconds([sys.executable, "-c", ""])


def median_seconds(command: Sequence[str]) -> float:
    """Wall time of a command."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def median_imports(command: Sequence[str], directory: Path | None = None) -> float:
    return statistics.median(seconds_of_imports(command, directory) for _ in range(ROUNDS))


def seconds_of_imports(command: Sequence[str], directory: Path | None = None) -> float:
    """Seconds that a command and the processes that it starts spend on imports."""
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    with tempfile.TemporaryFile("w+") as output:
        result = subprocess.run(
            command, stdout=output, stderr=output, env=environment, cwd=directory, check=False
        )
        output.seek(0)
        text = output.read()
    if result.returncode != 0:
        said = [line for line in text.splitlines() if not line.startswith("import time:")]
        sys.exit("\n".join([f"{' '.join(command)} failed:", *said[-20:]]))
    return sum(map(int, re.findall(r"import time: +(\d+) \|", text))) / 1e6


if __name__ == "__main__":
    main()
