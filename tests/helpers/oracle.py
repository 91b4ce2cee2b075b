"""The original code, each question in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.helpers.commands import ROOT

ORACLE = Path(os.environ.get("MOBILE_SAM_ORACLE", ROOT / ".venv" / "oracle"))


def original(name: str, task: dict[str, Any], directory: Path) -> Any:
    """What the original code answers, from a process of its own."""
    assert (ORACLE / "mobile_sam").is_dir(), f"run `make oracle`: {ORACLE} has no original code"
    source, target = directory / f"{name}.in.pt", directory / f"{name}.out.pt"
    torch.save(task, source)
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("original_code.py")), name, source, target],
        check=True,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ORACLE)},
        capture_output=True,
    )
    return torch.load(target, weights_only=True)
