"""Variables of jobs: the Python that plans, the code of the checkout, and nothing twice."""

import os
import sys
from pathlib import Path

import pytest

from mobile_sam.pipeline import environment
from mobile_sam.pipeline.environment import job_environment
from tests.helpers.commands import ROOT

PYTHON = str(Path(sys.executable).parent)


def test_jobs_find_the_python_that_plans_and_the_code_of_the_checkout_first() -> None:
    places = os.pathsep.join(["/usr/bin", PYTHON])
    added = job_environment({"PATH": places, "PYTHONPATH": "/elsewhere"})
    assert added["PATH"] == os.pathsep.join([PYTHON, "/usr/bin"])
    assert added["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/elsewhere"])
    assert added["MOBILE_SAM_JOB"] == "1"
    assert job_environment(added) == added


def test_jobs_of_an_installed_wheel_get_no_path_to_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another Python, that Snakemake deploys, cannot load what is compiled for this one."""
    monkeypatch.setattr(environment, "CHECKOUT", None)
    assert "PYTHONPATH" not in job_environment({})
