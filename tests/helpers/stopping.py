"""Processes that wait at a stopping point until a test ends them, or lets them go on."""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mobile_sam.system.stopping import VARIABLE

# The stopping points of a stage that ends, in their order.
POINTS = (
    "the last epoch is saved",
    "metrics are made",
    "the best epoch is made",
    "results are made",
    "results are kept",
    "metrics.csv is in place",
    "best.pt is in place",
    "checkpoint.pt is in place",
    "best.pt is removed",
    "metrics.csv is removed",
    "resume.pt is removed",
    "the work is done",
)


@dataclass
class Stop:
    """A point at which a process stops; `environment` is for that process.

    Called in the process, it stops that one.
    """

    fifo: Path
    name: str
    _end: int | None = field(default=None, init=False)

    @property
    def environment(self) -> dict[str, str]:
        return {VARIABLE: f"{self.name}={self.fifo}"}

    def __call__(self) -> None:
        os.environ.update(self.environment)

    def wait(self, alive: Callable[[], bool], seconds: float = 600) -> None:
        """Until the process is there; AssertionError when it has ended, or takes too long."""
        deadline = time.monotonic() + seconds
        while self._end is None:
            try:
                self._end = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                assert error.errno == errno.ENXIO, error
                assert alive(), f"it ended before {self.name!r}"
                assert time.monotonic() < deadline, f"it does not come to {self.name!r}"
                time.sleep(0.005)

    def release(self) -> None:
        """Let the process go on, if it is still there."""
        if self._end is not None:
            os.close(self._end)
            self._end = None


def stop_at(directory: Path, name: str) -> Stop:
    """A `Stop` whose FIFO is in a directory that is there."""
    fifo = directory / f"stop at {name}"
    os.mkfifo(fifo)
    return Stop(fifo, name)
