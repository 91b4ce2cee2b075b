"""CPUs: whose they are, what reads images on them, and what is said when others use them."""

import subprocess
import sys
from pathlib import Path

import pytest

from mobile_sam import __main__ as command_line
from mobile_sam.cli.command import Command
from mobile_sam.system import cpus
from mobile_sam.system.cpus import cpus_of_rank, reading_processes, spin_briefly, warn_if_shared

SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Sixteen CPUs and no job."""
    for name in ("MOBILE_SAM_JOB", "OMP_NUM_THREADS", "SLURM_NTASKS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpus, "_allowed", lambda: set(range(16)))
    monkeypatch.setattr(cpus, "_SHARED_MEMORY", tmp_path)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "ranks", "expected"),
    [
        ({}, 1, 8),  # as many as the rules ask for
        ({}, 4, 4),
        ({"OMP_NUM_THREADS": "1"}, 1, 8),  # of torchrun
        ({"MOBILE_SAM_JOB": "1", "OMP_NUM_THREADS": "12"}, 1, 12),
        ({"MOBILE_SAM_JOB": "1", "OMP_NUM_THREADS": "12"}, 2, 6),
        ({"MOBILE_SAM_JOB": "1", "OMP_NUM_THREADS": "2"}, 4, 1),
        ({"SLURM_CPUS_PER_TASK": "6", "SLURM_NTASKS": "1"}, 2, 3),  # which starts the other rank
        ({"SLURM_CPUS_PER_TASK": "6", "SLURM_NTASKS": "2"}, 2, 6),
        ({"SLURM_CPUS_PER_TASK": "64"}, 1, 16),
    ],
)
def test_ranks_share_what_the_job_may_use(
    environment: dict[str, str], ranks: int, expected: int, machine: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        machine.setenv(name, value)
    assert cpus_of_rank(ranks) == expected


def test_processes_read_beside_a_gpu_and_not_beside_a_model_on_the_cpus(
    machine: pytest.MonkeyPatch,
) -> None:
    assert reading_processes("auto", "cuda") == 8
    assert reading_processes("auto", "cuda", ranks=8) == 2
    assert reading_processes("auto", "cpu") == 0
    for device in ("cpu", "cuda"):
        assert [reading_processes(number, device) for number in (0, 3)] == [0, 3]


def test_too_little_shared_memory_is_said(
    machine: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.setattr(cpus, "_LEAST_SHARED", 1 << 62)
    assert reading_processes("auto", "cuda") == 0
    assert "--shm-size" in caplog.text


def test_what_the_user_says_of_spinning_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SPINNING:
        for other in SPINNING:
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, "active")
        spin_briefly()
        assert {other: cpus.os.environ.get(other) for other in SPINNING} == {
            **dict.fromkeys(SPINNING),
            name: "active",
        }


def test_every_command_spins_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SPINNING:
        # So that it is removed again, whatever the command sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    found = []
    look = Command(lambda args: found.append(cpus.os.environ["GOMP_SPINCOUNT"]), "looks", "look")
    monkeypatch.setitem(command_line.COMMANDS, "look", look)
    assert command_line.main(["look"]) == 0
    assert found == ["1000"]


def test_the_command_line_has_not_loaded_torch_by_then() -> None:
    code = "import sys, mobile_sam.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Ticks of CPU 0 (half idle), CPU 1 (all idle), and CPU 2, which is not allowed.
BEFORE = "cpu  0 0 0 0 0\ncpu0 10 0 0 100 0 0 0 0\ncpu1 5 0 0 50 0 0 0 0\ncpu2 0 0 0 0 0\nintr 9"
AFTER = "cpu  9 9 9 9 9\ncpu0 18 0 2 106 4 0 0 0\ncpu1 5 0 0 70 0 0 0 0\ncpu2 0 0 0 99 0\nintr 9"


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two CPUs of which 1.5 are free."""
    path = tmp_path / "stat"
    path.write_text(BEFORE)
    monkeypatch.setattr(cpus, "_STATISTICS", path)
    monkeypatch.setattr(cpus, "_allowed", lambda: {0, 1})
    monkeypatch.setattr(cpus.time, "sleep", lambda seconds: path.write_text(AFTER))


def test_idle_time_is_counted_by_hand(busy: None) -> None:
    assert cpus.free_cpus() == pytest.approx(1.5)


@pytest.mark.parametrize(("threads", "warned"), [(1, False), (2, False), (4, True)])
def test_busy_cpus_are_warned_of(
    threads: int, warned: bool, busy: None, caplog: pytest.LogCaptureFixture
) -> None:
    warn_if_shared(threads)
    assert ("leave only 1.5 CPUs free" in caplog.text) == warned


def test_where_the_system_does_not_say_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpus, "_STATISTICS", tmp_path / "none")
    warn_if_shared(8)
    assert cpus.free_cpus() is None
    assert not caplog.text
