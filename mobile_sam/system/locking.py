"""Lock files, which are released when their process ends or is killed."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

_WITHOUT_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP}


def open_lock(path: Path) -> IO[bytes]:
    """Open a lock file for reading and writing; create it if it is missing.

    NFS refuses a shared lock on a file that is open for writing only, and an exclusive lock on one
    that is open for reading only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab+")


def acquire(lock: Callable[[IO[bytes], int], None], file: IO[bytes], kind: int) -> None:
    """Acquire a lock with `fcntl.flock` or `fcntl.lockf`. Raises their errors, with the file name.

    A disk without locks, such as Lustre mounted without `flock`, only causes a warning.
    """
    try:
        lock(file, kind)
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            log.warning("%s: the disk has no locks; run one Snakemake at a time on it", file.name)
            return
        error.filename = error.filename or str(file.name)
        raise
