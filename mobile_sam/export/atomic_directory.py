"""Directories that are replaced as a whole, and only by directories of their own kind."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobile_sam.system.atomic_files import unfinished_path
from mobile_sam.system.directories import mark_output
from mobile_sam.system.errors import UserError


@contextmanager
def atomic_directory(directory: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary directory that replaces `directory` when the context ends without an error.

    marker: name of a file that every directory of this kind contains. After an error an earlier
    directory stays. Raises UserError if `directory` contains anything else.
    """
    directory = directory.resolve()
    _refuse_other_contents(directory, marker)
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(directory)
    try:
        mark_output(unfinished)
        yield unfinished
        if directory.exists():
            shutil.rmtree(directory)
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _refuse_other_contents(directory: Path, marker: str) -> None:
    if not directory.exists():
        return
    if directory.is_dir() and ((directory / marker).is_file() or not any(directory.iterdir())):
        return
    raise UserError(f"{directory}: it contains other files; give another directory")
