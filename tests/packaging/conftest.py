"""What the project is handed over as: files of the repository, sdist, wheel, and environments."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.distributions import Distribution, build


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """The sdist of the repository, and the wheel that is built from it."""
    directory = tmp_path_factory.mktemp("dist")
    build(ROOT, directory)
    (sdist,), (wheel,) = (list(directory.glob(kind)) for kind in ("*.tar.gz", "*.whl"))
    return Distribution(sdist, wheel)


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
