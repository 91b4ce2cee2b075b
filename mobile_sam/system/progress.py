"""Progress of long tasks: a line in the log every few seconds."""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_LOG_SECONDS = 5.0


class ProgressLog:
    """Log of items done, items per second and seconds left; at most one line in five seconds.

    name: name of the task. unit: name of an item, such as `image`. now: clock, in seconds.
    """

    def __init__(
        self, name: str, total: int, unit: str = "image", now: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.total, self.unit, self.now = name, total, unit, now
        self.started = self.logged = now()
        self.done = self.computed = 0

    def step(self, computed: bool = True) -> None:
        """Count one item. computed: false if it was done before; the rate excludes it."""
        self.done += 1
        self.computed += computed
        if self.now() - self.logged < _LOG_SECONDS:
            return
        self.logged = self.now()
        rate = self.computed / (self.logged - self.started)
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else "all done before"
        log.info(
            "%s: %s %d/%d  %.1f %ss/s  %s",
            *(self.name, self.unit, self.done, self.total, rate, self.unit, left),
        )
