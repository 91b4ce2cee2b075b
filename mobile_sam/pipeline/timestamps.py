"""Times of results, by which Snakemake decides what runs again."""

import time
from datetime import datetime
from pathlib import Path

from mobile_sam.config import RunConfig, UserError
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import normalise

_SLACK = 60.0  # seconds: clocks of a network disk differ a little


class TimeError(UserError):
    """A result of the future; the message names it."""


def check_times(configs: tuple[RunConfig, ...]) -> None:
    """Raise TimeError for an input of a training that was written in the future.

    Snakemake would let the training run to its end, find its checkpoint older than that input, and
    delete it.
    """
    now = time.time()
    for config in configs:
        for path in _inputs(config):
            if path.is_file() and path.stat().st_mtime > now + _SLACK:
                written = datetime.fromtimestamp(path.stat().st_mtime)
                raise TimeError(
                    f"{path}: was written in the future ({written:%Y-%m-%d %H:%M}), so that what "
                    "is made of it now would seem outdated; set the clock right, or `touch` it"
                )


def _inputs(config: RunConfig) -> list[Path]:
    paths = RunPaths(config)
    weights = [paths.start_weights, *(teacher.teacher_weights for teacher in paths.teachers)]
    stages = [paths.checkpoint(s, kept) for s in normalise(config) for kept in ("last", "best")]
    return [paths.index, *(path for path in weights if path is not None), *stages]
