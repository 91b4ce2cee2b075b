"""Verbs in processes that can be disturbed: killed, short of memory, or hooked into."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from mobile_sam.__main__ import main

# Forks of a process that has imported everything: a verb's work is disturbed, and no import.
_SERVER = multiprocessing.get_context("forkserver")
_PRELOADED = ["training.run", "training.export", "evaluation.validate_run", "report.write"]
_PRELOADED += ["extraction.compute", "download.files"]


class Ended(NamedTuple):
    """A process that has ended, with all that it printed. status: negative for a signal."""

    status: int | None
    output: str

    @property
    def sentence(self) -> str:
        """What a verb that failed has said: one line, and no traceback."""
        assert self.status == 1, self
        assert "Traceback" not in self.output, self.output
        errors = [line for line in self.output.splitlines() if "error: " in line]
        assert len(errors) == 1, self.output
        return errors[0].split("error: ", 1)[1]


class Running:
    """A verb at work in `directory`.

    before: is called in the process, first of all. memory: MiB of addresses beyond those it has.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        before: Callable[[], None] | None = None,
        memory: int | None = None,
    ) -> None:
        # Not in the project, which may lie on a disk that is full.
        self._output = Path(tempfile.mkdtemp()) / "output"
        modules = [f"mobile_sam.{name}" for name in _PRELOADED]
        _SERVER.set_forkserver_preload([*modules, "torch.utils.tensorboard", __name__])
        given = (str(directory), str(self._output), arguments, before, memory)
        self.process: BaseProcess = _SERVER.Process(target=_run, args=given)
        self.process.start()

    def wait(self) -> Ended:
        self.process.join()
        output = self._output.read_text()
        shutil.rmtree(self._output.parent)
        return Ended(self.process.exitcode, output)

    def signal(self, number: int) -> Ended:
        with suppress(ProcessLookupError):  # it may have ended just now
            os.kill(self.process.pid or 0, number)
        return self.wait()

    def wait_for_work(self) -> None:
        """Until it is forked and has begun."""
        while self.process.is_alive() and not self._output.exists():
            time.sleep(0.001)


def _run(
    directory: str,
    output: str,
    arguments: tuple[str, ...],
    before: Callable[[], None] | None,
    memory: int | None,
) -> None:
    os.chdir(directory)
    torch.set_num_threads(1)
    with Path(output).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if before is not None:
        before()
    if memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.exit(main(list(arguments)))


def ended_at_random(running: Running, seconds: float, number: int, rng: random.Random) -> Ended:
    """Send a signal within so many seconds of the beginning."""
    running.wait_for_work()
    time.sleep(rng.uniform(0, seconds))
    return running.signal(number)


def kill_all(running: "subprocess.Popen[str]") -> str:
    """Snakemake and its jobs at once, as the system does when a machine is lost.

    Returns what they printed.
    """
    jobs = psutil.Process(running.pid).children(recursive=True)
    for process in [psutil.Process(running.pid), *jobs]:
        process.send_signal(signal.SIGKILL)
    output, _ = running.communicate()
    psutil.wait_procs(jobs, timeout=30)
    return output
