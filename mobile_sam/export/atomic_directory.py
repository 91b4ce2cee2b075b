"""A directory that is there whole or not at all, and takes the place of none but its own kind."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobile_sam.config import UserError
from mobile_sam.files import unfinished_path


@contextmanager
def whole_directory(directory: Path, marker: str) -> Iterator[Path]:
    """Where to write what becomes `directory` when the block ends, in place of one that is there.

    marker: a file that each such directory has. After an error what was there stays.
    Raises UserError where something else is there.
    """
    directory = directory.resolve()
    _refuse_other_things(directory, marker)
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_path(directory)
    unfinished.mkdir()
    try:
        yield unfinished
        if directory.exists():
            shutil.rmtree(directory)
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _refuse_other_things(directory: Path, marker: str) -> None:
    if not directory.exists():
        return
    if directory.is_dir() and ((directory / marker).is_file() or not any(directory.iterdir())):
        return
    raise UserError(f"{directory}: there is something else; name another directory")
