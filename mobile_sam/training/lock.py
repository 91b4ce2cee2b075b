"""One process at a time: a lock that ends with its holder, however that ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobile_sam.config import ConfigError


@contextmanager
def exclusive(path: Path, only: bool = True) -> Iterator[None]:
    """Hold the lock file `path`; raise ConfigError when another process holds it.

    only: false does nothing, for the ranks of a distributed job that are not the first.
    """
    if not only:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            # Not `flock`: forked readers of images would hold it on after their trainer is killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ConfigError(
                f"{path.parents[1]}: another process is training this run; wait for it or end it"
            ) from None
        yield
