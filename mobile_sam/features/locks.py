"""Locks beside a store, which the system releases when their holder ends."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mobile_sam.features.schema import FeatureError
from mobile_sam.system.atomic_files import path_exists
from mobile_sam.system.locking import acquire, open_lock

log = logging.getLogger(__name__)

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def write_lock(path: Path, what: str = "rows") -> Iterator[None]:
    """Hold the store at `path` for a change that one process makes at a time; waits for others.

    what: `rows`, or a part of the extraction; different parts do not wait for each other.
    """
    with _open_lock_file(path, what) as file:
        try:
            acquire(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process changes the store (%s); waiting for it", path, what)
            acquire(fcntl.flock, file, fcntl.LOCK_EX)
        with _unlock_at_end(file):
            yield


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the store for a change of what rows mean; FeatureError while anybody uses it."""
    with _open_lock_file(path, "use") as file:
        try:
            acquire(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FeatureError(
                f"{path}: another process reads or writes the store; try again when it has ended"
            ) from None
        with _unlock_at_end(file):
            yield


def acquire_shared_lock(path: Path) -> IO[bytes] | None:
    """Keep others from replacing the store for as long as the returned file is open.

    None in a directory that cannot be written to, unless somebody who can has left the lock there.
    """
    try:
        file = _open_lock_file(path, "use")
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        try:
            file = _lock_file(path, "use").open("rb")
        except (FileNotFoundError, PermissionError):
            return None
    acquire(fcntl.flock, file, fcntl.LOCK_SH)
    return file


def is_read_only(path: Path) -> bool:
    """Return whether a store is readable but no lock can be created next to it."""
    return path_exists(path) and not os.access(path.parent, os.W_OK)


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """`acquire_shared_lock` for as long as the block lasts."""
    file = acquire_shared_lock(path)
    if file is None:
        yield
        return
    with file, _unlock_at_end(file):
        yield


@contextmanager
def _unlock_at_end(file: IO[bytes]) -> Iterator[None]:
    """Give a lock back at the end of the block, also where forked readers of images have the file.

    Closing it is not enough: they hold the lock as well, for as long as they live.
    """
    try:
        yield
    finally:
        acquire(fcntl.flock, file, fcntl.LOCK_UN)


def _open_lock_file(path: Path, what: str) -> IO[bytes]:
    return open_lock(_lock_file(path, what))


def _lock_file(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}.lock")
