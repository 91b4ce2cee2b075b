"""The images of the Dockerfile, where Docker runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.distributions import TINY

pytestmark = pytest.mark.package


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def _running() -> None:
    if shutil.which("docker") is None or docker("info").returncode:
        pytest.skip("no Docker runs here")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_the_workflow_for_whoever_asks(target: str, tmp_path: Path) -> None:
    index = os.environ.get("TORCH_INDEX", "")
    if target == "cpu" and not index:
        pytest.skip("TORCH_INDEX names no index of torch for CPUs")
    image = f"mobile_sam:test-{target}"
    options = ["--build-arg", f"TORCH_INDEX={index}"] if target == "cpu" else []
    built = docker("build", "--target", target, "--tag", image, *options, str(ROOT))
    assert built.returncode == 0, built.stderr
    done = docker(
        *("run", "--rm", "--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{tmp_path}:/work"),
        *(image, "snakemake", "-s", "/opt/workflow/Snakefile", *TINY),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "results/mobile_sam/mobileSAM-tiny/report/index.html").is_file()
