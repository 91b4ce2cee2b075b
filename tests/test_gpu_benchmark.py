"""`make test-gpu` without a GPU: tiny sizes, and an exit status that tells of a failure."""

import importlib
import os
import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def test_every_row_is_as_expected_on_a_cpu() -> None:
    result = bench()
    assert result.returncode == 0, result.stdout + result.stderr
    for row in ("step, 32-true", "memory", "validation", "resume", "two processes"):
        assert f"| {row} |" in result.stdout


def test_what_is_not_as_expected_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(gpu, "SECTIONS", (lambda bench: iter([("a", "1", False)]),))
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", "cpu"])
    gpu.SECTIONS[0].__name__ = "a"
    assert gpu.main() == 1
    assert "| a | 1 | no |" in capsys.readouterr().out
