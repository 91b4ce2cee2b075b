"""Who may change a store: locks beside it, which end with their holder, however that ends."""

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mobile_sam.features.parts import FeatureError

log = logging.getLogger(__name__)

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def changing(path: Path, what: str = "rows") -> Iterator[None]:
    """Hold the store at `path` for a change that one process makes at a time; waits for others.

    what: `rows`, or a part of the extraction; different parts do not wait for each other.
    """
    with _open(path, what) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process changes the store (%s); waiting for it", path, what)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the store for a change of what rows mean; FeatureError while anybody uses it."""
    with _open(path, "use") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FeatureError(
                f"{path}: another process reads or writes the store; try again when it has ended"
            ) from None
        yield


def use(path: Path) -> IO[str] | None:
    """Keep others from replacing the store for as long as the returned file is open.

    None in a directory that cannot be written to, where no other user of it can lock either.
    """
    try:
        file = _open(path, "use")
    except OSError as error:
        if error.errno in _READ_ONLY:
            return None
        raise
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


@contextmanager
def using(path: Path) -> Iterator[None]:
    """`use` for as long as the block lasts."""
    file = use(path)
    try:
        yield
    finally:
        if file is not None:
            file.close()


def _open(path: Path, what: str) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{what}.lock").open("a")
