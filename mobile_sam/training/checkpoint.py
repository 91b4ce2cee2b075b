"""Checkpoints: files with everything that a stage needs to continue, written atomically."""

import json
import subprocess
import zipfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mobile_sam.config.renames import new_name
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import canonical
from mobile_sam.config.sections import CheckpointKind
from mobile_sam.config.stage import Stage
from mobile_sam.models.safe_load import load_file
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import atomic_write
from mobile_sam.system.errors import ConfigError

FORMAT, VERSION = "mobile_sam checkpoint", 2


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint through a temporary file, so that a killed process leaves no partial file.

    content: tensors and plain values only.
    """
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        torch.save({"format": FORMAT, "version": VERSION, **content}, file)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises ConfigError for other files and other versions of the format."""
    content = load_file(path)
    _check_sums(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f"{path}: not a checkpoint of mobile_sam; train the stage again")
    file_version = content.get("version")
    if file_version != VERSION:
        remedy = "delete it and train the stage again"
        if isinstance(file_version, int) and file_version > VERSION:
            remedy = f"install the newer mobile_sam that wrote it, or {remedy}"
        raise ConfigError(
            f"{path}: the checkpoint has format version {file_version}, but this package reads "
            f"version {VERSION}; {remedy}"
        )
    return content


def _check_sums(path: Path) -> None:
    """Raise ConfigError if checksums do not match; `torch.load` does not verify them."""
    if not zipfile.is_zipfile(path):
        return  # no checkpoint of this package
    with zipfile.ZipFile(path) as content:
        damaged = content.testzip()
    if damaged is not None:
        raise ConfigError(
            f"{path}: damaged ({damaged} does not match its checksum); delete it and run the same "
            "command again"
        )


def load_stage_checkpoint(
    config: RunConfig, stage: Stage, kept: CheckpointKind = "last"
) -> dict[str, Any]:
    """Read the checkpoint of a finished stage. Raises ConfigError if its settings differ."""
    path = RunPaths(config).checkpoint(stage, kept)
    content = load(path)
    saved, expected = json.loads(content["settings"]), json.loads(canonical(config, stage))
    keys = {*saved, *expected}
    differing = sorted(new_name(key) for key in keys if saved.get(key) != expected.get(key))
    if differing:
        raise ConfigError(
            f"{path}: the checkpoint was trained with other settings ({', '.join(differing)}); "
            "delete it and run the same command to train the stage again"
        )
    return content


@cache
def provenance() -> dict[str, str]:
    """Return the versions of the package and of torch, and the commit of the code."""
    return {
        "mobile_sam": version("mobile_sam"),
        "torch": str(torch.__version__),
        "commit": _commit(),
    }


def version_of_code() -> str:
    """Return `provenance` in one line, because another version may train differently."""
    return json.dumps(provenance(), sort_keys=True)


def _commit() -> str:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "not a git checkout"
    result = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or "unknown"
