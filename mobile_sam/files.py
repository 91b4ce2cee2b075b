"""Files that are there whole or not at all: written beside their place, and put into it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def unfinished_path(path: Path) -> Path:
    """Where this process writes what becomes `path`, by `replace`, when it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def remove_unfinished(directory: Path) -> None:
    """Remove what killed writers left in a directory; no writer may be at work there."""
    for path in directory.glob(".*.*"):
        if path.suffix.removeprefix(".").isdigit():
            path.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(path)
    unfinished.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    unfinished.replace(path)


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
