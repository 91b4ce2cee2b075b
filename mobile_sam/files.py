"""Files that are there whole or not at all: written beside their place, and put into it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mobile_sam.faults import naming


def unfinished_path(path: Path) -> Path:
    """Where this process writes what becomes `path`, by `replace`, when it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def remove_unfinished(directory: Path) -> None:
    """Remove what killed writers left in a directory; no writer may be at work there."""
    for path in directory.glob(".*.*"):
        if path.suffix.removeprefix(".").isdigit():
            path.unlink()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what becomes the file `path` when the block ends, and is on the disk by then.

    After an error nothing is left of it, and one of the disk names `path`.
    """
    unfinished = unfinished_path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            with suppress(OSError):
                unfinished.unlink()


@contextmanager
def whole_files(directory: Path, last: str) -> Iterator[Path]:
    """Where to write files that get their places in `directory` when the block ends.

    last: the file that is put in its place after all others. After an error none is.
    """
    unfinished = unfinished_path(directory)
    with naming(directory):
        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            directory.mkdir(exist_ok=True)
            for path in sorted(unfinished.iterdir(), key=lambda path: (path.name == last, path)):
                path.replace(directory / path.name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader never sees half of it."""
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
