"""Distributions of the project, and commands that see nothing else of it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.commands import ROOT

TINY = ("--cores", "1", "--config", "run=mobileSAM", "overlay=tiny")
MAKEFILE = (ROOT / "Makefile").read_text()
# The builds of torch and torchvision that the project is tested with.
TORCH = next(line for line in MAKEFILE.splitlines() if line.startswith("TORCH := "))[9:]


@dataclass(frozen=True)
class Distribution:
    sdist: Path
    wheel: Path


def build(source: Path, target: Path, *arguments: str) -> None:
    """Run `python -m build`, with the build backend of the environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target)]
    subprocess.run([*command, *arguments, str(source)], check=True, capture_output=True)


def outside(command: list[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in `directory`, without a hint at the repository."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
