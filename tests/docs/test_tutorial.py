"""The tutorial's workflow, typed from its first command to its last."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.documented_commands import commands

# Needs weights that are downloaded; its plan is tested with the others.
PUBLISHED = "finetune_then_distill"


@pytest.mark.long
def test_the_workflow_of_the_tutorial_runs(workplace: Path) -> None:
    typed = [
        command
        for command in commands()
        if command.page == "docs/tutorial.md" and command.words[0] == "snakemake"
    ]
    assert len(typed) >= 5
    for command in typed:
        if PUBLISHED in command.text:
            continue
        result = subprocess.run(
            [sys.executable, "-m", *command.words], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr[-3000:]
    for run in ("my_run", "my_run-tiny", "my_trial", "my_timing"):
        assert (Path("results/mobile_sam") / run / "report" / "index.html").is_file()
        assert (Path("results/mobile_sam") / run / "weights.pt").is_file()
