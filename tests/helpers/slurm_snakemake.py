"""Snakemake that looks at its SLURM jobs each second; by itself it looks ever more seldom."""

import asyncio
import signal
import sys

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor


async def _one_second(self: Executor) -> None:
    await asyncio.sleep(1)


Executor.sleep = _one_second

if __name__ == "__main__":
    # A shell that starts the tests in the background has its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
