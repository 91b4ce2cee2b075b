"""Checks of modification times, by which Snakemake decides what runs again."""

import time
from datetime import datetime
from pathlib import Path

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import UserError

_SLACK = 60.0  # seconds: clocks of a network disk differ a little


class TimeError(UserError):
    """Result with a modification time in the future; the message names it."""


def check_times(configs: tuple[RunConfig, ...]) -> None:
    """Raise TimeError for an input of training whose modification time is in the future.

    Otherwise Snakemake would find the checkpoint older than that input after training, and delete
    it.
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
