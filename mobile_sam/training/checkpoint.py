"""Checkpoints: everything that continuing needs, written whole or not at all."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mobile_sam.config import ConfigError
from mobile_sam.files import whole
from mobile_sam.models.weights import load_file

FORMAT, VERSION = "mobile_sam checkpoint", 2


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint through a temporary file, so that a killed writer leaves none torn.

    content: tensors and plain values only.
    """
    with whole(path) as unfinished, unfinished.open("wb") as file:
        torch.save({"format": FORMAT, "version": VERSION, **content}, file)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises ConfigError for a file that is none of ours, or of another form."""
    content = load_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path}: not a checkpoint of mobile_sam; train the stage again")
    found = content.get("version")
    if found != VERSION:
        remedy = "delete it and train the stage again"
        if isinstance(found, int) and found > VERSION:
            remedy = f"install the newer mobile_sam that wrote it, or {remedy}"
        raise ConfigError(
            f"{path}: a checkpoint of format version {found}, and this package reads {VERSION}; "
            f"{remedy}"
        )
    return content


@cache
def provenance() -> dict[str, str]:
    """Versions and commit of what writes a checkpoint."""
    return {
        "mobile_sam": version("mobile_sam"),
        "torch": str(torch.__version__),
        "commit": _commit(),
    }


def _commit() -> str:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "not a git checkout"
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
