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
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{path.parent}: another process is training this stage; wait for it or end it"
            ) from None
        yield
