"""The repository, its command line and its workflow, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers import fork_server

ROOT = Path(__file__).parents[2]
# Snakemake that prints rule, files and resources of each job, in place of the rule's message.
RULE_BLOCKS = ROOT / "tests" / "helpers" / "rule_blocks.py"


def verb(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m mobile_sam` in a process of its own."""
    variables = (os.environ if env is None else env) | {"OMP_NUM_THREADS": "1"}
    return fork_server.run(["-m", "mobile_sam", *map(str, arguments)], cwd, variables)


def new_process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m mobile_sam` as a user does: by a Python that has imported nothing yet."""
    return subprocess.run(
        [sys.executable, "-m", "mobile_sam", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,
    )


def snakemake(directory: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the project's own workflow with its results below `directory`."""
    place = ["--directory", str(directory), "--cores", "2"]
    words = [str(RULE_BLOCKS), "--snakefile", str(ROOT / "Snakefile"), *place]
    return fork_server.run([*words, *map(str, arguments)], directory)
