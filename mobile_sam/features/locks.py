"""Lock files next to a store; the system releases a lock when its process ends."""

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
def write_lock(path: Path, scope: str = "rows") -> Iterator[None]:
    """Lock the store at `path` for a change that one process makes at a time; wait for others.

    scope: `rows`, or a part of the extraction; locks of different scopes do not exclude each other.
    """
    with _open_lock_file(path, scope) as file:
        try:
            acquire(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process changes the store (%s); waiting for it", path, scope)
            acquire(fcntl.flock, file, fcntl.LOCK_EX)
        with _unlock_at_end(file):
            yield


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Lock the store to replace or delete it. Raises FeatureError if another process uses it."""
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
    """Prevent others from replacing the store for as long as the returned file is open.

    Returns None in a read-only directory, unless another user has created the lock file there.
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
    """Return whether a store exists, but no lock can be created next to it."""
    return path_exists(path) and not os.access(path.parent, os.W_OK)


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold the lock of `acquire_shared_lock` during the block."""
    file = acquire_shared_lock(path)
    if file is None:
        yield
        return
    with file, _unlock_at_end(file):
        yield


@contextmanager
def _unlock_at_end(file: IO[bytes]) -> Iterator[None]:
    """Release a lock at the end of the block, also if forked data loaders have inherited the file.

    Closing the file is not enough: the forked processes would hold the lock until they end.
    """
    try:
        yield
    finally:
        acquire(fcntl.flock, file, fcntl.LOCK_UN)


def _open_lock_file(path: Path, scope: str) -> IO[bytes]:
    return open_lock(_lock_file(path, scope))


def _lock_file(path: Path, scope: str) -> Path:
    return path.with_name(f".{path.name}.{scope}.lock")
