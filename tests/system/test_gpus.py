"""Several GPUs in one machine, which `nvidia-smi` lists: a script, because there may be none."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mobile_sam.pipeline.resources import threads_of_job
from mobile_sam.system.gpus import OFFERED, VISIBLE, take_gpus, visible_gpus
from tests.helpers.gpu_lists import Lists, gpu_line

ONE, TWO, THREE = "GPU-8b7c9a34-01", "GPU-8b7c9a34-02", "GPU-0f1e2d3c-03"
PARTS = ("MIG-1a2b-01", "MIG-1a2b-02")


DIVIDED = [
    gpu_line(0, ONE),
    f"  MIG 3g.20gb     Device  0: (UUID: {PARTS[0]})",
    f"  MIG 1g.5gb      Device  1: (UUID: {PARTS[1]})",
    gpu_line(1, TWO),
]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([gpu_line(0, ONE), gpu_line(1, TWO)], (ONE, TWO)),
        ([gpu_line(n, f"GPU-{n}") for n in range(4)], ("GPU-0", "GPU-1", "GPU-2", "GPU-3")),
        (["No devices found."], ()),
        (DIVIDED, (*PARTS, TWO)),
    ],
    ids=["two", "four", "none", "divided"],
)
def test_gpus_are_those_that_are_listed(
    lines: list[str], found: tuple[str, ...], nvidia_smi: Lists
) -> None:
    nvidia_smi(*lines)
    assert visible_gpus() == found


def test_a_driver_that_fails_has_no_gpus(nvidia_smi: Lists) -> None:
    nvidia_smi("NVIDIA-SMI has failed because it could not communicate with the driver.", status=9)
    assert visible_gpus() == ()


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        ("1", ("1",)),
        ("1,0", ("1", "0")),
        (f"{TWO}", (TWO,)),
        ("GPU-0f", (THREE,)),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("0,7,1", ("0",)),
        ("NoDevFiles", ()),
    ],
)
def test_gpus_are_those_that_cuda_may_see(
    variable: str, found: tuple[str, ...], nvidia_smi: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(gpu_line(0, ONE), gpu_line(1, TWO), gpu_line(2, THREE))
    monkeypatch.setenv(VISIBLE, variable)
    assert visible_gpus() == found


def test_without_nvidia_smi_the_variable_says_which_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)
    assert visible_gpus() == ()
    monkeypatch.setenv(VISIBLE, "0,1")
    assert visible_gpus() == ("0", "1")


class Job:
    """A process that takes GPUs and keeps them until it is told to end."""

    def __init__(self, count: int, offered: str) -> None:
        code = (
            "import logging, os; from mobile_sam.system.gpus import take_gpus; "
            f"logging.basicConfig(level='WARNING'); take_gpus({count}); "
            f"print(os.environ.get('{VISIBLE}'), flush=True); input()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {OFFERED: offered},
        )
        assert self.process.stdout is not None
        self.gpus = self.process.stdout.readline().strip().split(",")

    def end(self, kill: bool = False) -> str:
        """End it; returns its warnings."""
        if kill:
            self.process.kill()
        return self.process.communicate("\n", timeout=60)[1]


@pytest.fixture
def start(nvidia_smi: Lists) -> Iterator[Callable[[int, str], Job]]:
    with ExitStack() as stack:

        def begin(count: int, offered: str) -> Job:
            job = Job(count, offered)
            stack.callback(job.process.kill)
            return job

        yield begin


def test_each_job_has_its_own_gpu_until_it_ends(start: Callable[[int, str], Job]) -> None:
    first, second = start(1, "a,b,c"), start(1, "a,b,c")
    assert (first.gpus, second.gpus) == (["a"], ["b"])
    first.end(kill=True)
    third, fourth = start(2, "a,b,c"), start(1, "a,b,c")
    assert third.gpus == ["a", "c"]
    assert fourth.gpus == ["a"]  # none is free: a job of another workflow
    assert "GPU a: another job of this user also uses it" in fourth.end()
    assert third.end() == second.end() == ""


def test_without_an_offer_all_gpus_stay_visible(
    start: Callable[[int, str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(1, "").gpus == ["None"]
    assert start(2, "a").gpus == ["None"]  # training then says how many it needs
    monkeypatch.setenv(OFFERED, "a")
    take_gpus(0)
    assert OFFERED not in os.environ
    assert VISIBLE not in os.environ


def test_threads_are_shared_so_that_each_gpu_has_a_job() -> None:
    assert [threads_of_job(16, gpus) for gpus in (0, 1, 4, 32)] == [8, 8, 4, 1]
    assert threads_of_job(None, 4) == 8
