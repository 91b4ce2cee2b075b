"""Workflows on the cluster, by the profile that ships, and the same without one."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from mobile_sam.training import checkpoint
from tests.helpers.commands import ROOT
from tests.helpers.equality import equal_states
from tests.helpers.slurm_cluster import jobs, wait_until

# One thread each, so that sums are made in one order.
_COMMON = ("--snakefile", str(ROOT / "Snakefile"), "--max-threads", "1")


class Long(NamedTuple):
    """A training as long as a test needs it, and where it leaves what."""

    run: Path = Path("results/mobile_sam/mobileSAM-tiny")

    def arguments(self, epochs: int) -> tuple[str, ...]:
        named = ("--config", "run=mobileSAM", "overlay=tiny", f"num_epochs={epochs}")
        return (*named, "val_images=0", "save_every_minutes=0.02")

    @property
    def target(self) -> tuple[str, str]:
        """What Snakemake is to make, and no more."""
        return "--until", "train_mobileSAM_tiny_00_finetune"

    @property
    def checkpoint(self) -> Path:
        return self.run / "stages/00_finetune/checkpoint.pt"

    @property
    def metrics(self) -> Path:
        return self.run / "stages/00_finetune/metrics.csv"

    @property
    def resume(self) -> Path:
        return self.run / "stages/00_finetune/state/resume.pt"


LONG = Long()


def run_locally(directory: Path, *arguments: str | Path) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", *_COMMON),
            *("--directory", str(directory), "--cores", "1", *map(str, arguments)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
    )
    assert result.returncode == 0, result.stderr[-3000:]


class Submitted:
    """A workflow on the cluster, from its submission on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "submitted.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str | Path, **environment: str) -> None:
        """Submit; the profile is the one that ships, in everything but how often it looks."""
        self.directory.mkdir(exist_ok=True)
        profile = ("--workflow-profile", str(ROOT / "profiles" / "slurm"))
        looking = ("--slurm-status-command", "squeue", "--latency-wait", "10")
        command = [
            sys.executable,
            "-m",
            "tests.helpers.slurm_snakemake",
            *_COMMON,
            *profile,
            *looking,
        ]
        command += ["--slurm-keep-successful-logs", "--directory", str(self.directory)]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=os.environ | environment,
            )

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def trainer(self) -> psutil.Process:
        """The process that trains, on this machine whatever its node."""
        (found,) = (
            process
            for process in psutil.process_iter(["cmdline", "cwd"])
            if (process.info["cmdline"] or [])[1:4] == ["-m", "mobile_sam", "train"]
            and process.info["cwd"] == str(self.directory)
        )
        return found

    def wait(self, seconds: float = 420) -> None:
        """To the end, which has to be a good one."""
        assert self._process is not None
        assert self._process.wait(seconds) == 0, self.log.read_text()[-5000:]

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(60) != 0

    def end(self) -> None:
        """Kill Snakemake and what is left of its jobs; cancel nothing.

        The Snakemake of a job on a node that went down may stay: without control groups, as here,
        SLURM loses sight of it.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.directory) in word for word in process.info["cmdline"] or ()):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def training(self) -> str:
        """The id of the job that trains, once it has saved something."""

        def found() -> list[str]:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-5000:]
            return [
                number
                for number, (state, comment) in jobs().items()
                if comment == "rule_train_mobileSAM_tiny_00_finetune" and state == "RUNNING"
            ]

        wait_until(lambda: self._saved_epoch() > 0 and found(), "the training saves", 120)
        return found()[0]

    def _saved_epoch(self) -> int:
        resume = self.directory / LONG.resume
        return int(checkpoint.load(resume)["progress"]["epoch"]) if resume.is_file() else 0

    def logs(self, rule: str) -> dict[int, str]:
        """What each job of a rule has printed, by job id."""
        directory = self.directory / ".snakemake/slurm_logs" / f"rule_{rule}"
        files = sorted(directory.glob("*.log"), key=lambda path: int(path.stem))
        return {int(path.stem): path.read_text() for path in files}

    def attempts(self) -> list[str]:
        """What each job of the training has printed."""
        return list(self.logs("train_mobileSAM_tiny_00_finetune").values())


def first_epoch(attempt: str) -> int:
    """The epoch at which a training has begun or gone on."""
    begun = re.search(r"stage 00_finetune: epochs (\d+) to", attempt)
    assert begun is not None, attempt
    return int(begun[1])


def trained_epochs(attempts: Iterable[str]) -> list[int]:
    """The epochs that were trained to their end, counted from 1, in the order of attempts."""
    return [int(n) for attempt in attempts for n in re.findall(r"epoch (\d+) done", attempt)]


def same_end(first: Path, second: Path) -> bool:
    """Whether the long training has ended in the same bits in two projects."""
    one, two = (checkpoint.load(directory / LONG.checkpoint) for directory in (first, second))
    return equal_states(one["learner"], two["learner"])
