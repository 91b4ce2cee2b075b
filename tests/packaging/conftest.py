"""What the project is handed over as: files of the repository, sdist, wheel, and environments."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

TINY = ("--cores", "1", "--config", "run=mobileSAM", "overlay=tiny")
MAKEFILE = (ROOT / "Makefile").read_text()
# The builds of torch and torchvision that the project is tested with.
TORCH = next(line for line in MAKEFILE.splitlines() if line.startswith("TORCH := "))[9:]


@dataclass(frozen=True)
class Distribution:
    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """The sdist of the repository, and the wheel that is built from it."""
    directory = tmp_path_factory.mktemp("dist")
    build(ROOT, directory)
    (sdist,), (wheel,) = (list(directory.glob(kind)) for kind in ("*.tar.gz", "*.whl"))
    return Distribution(sdist, wheel)


def build(source: Path, target: Path, *arguments: str) -> None:
    """Run `python -m build`, with the build backend of the environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target)]
    subprocess.run([*command, *arguments, str(source)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def unpacked(distribution: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the files of the wheel, and all other packages from this environment."""
    directory = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(distribution.wheel) as wheel:
        wheel.extractall(directory / "wheel")
    environment = directory / "environment"
    command = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(command, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    places = [str(directory / "wheel"), sysconfig.get_path("purelib")]
    (packages / "these.pth").write_text("\n".join(places))
    return environment / "bin" / "python"


def outside(command: list[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in `directory`, without a hint at the repository."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
