"""An undisturbed run, made once, and disks that a test may fill or make read-only."""

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.disks import Disk
from tests.helpers.fault_projects import Copy, Project


@pytest.fixture(scope="session")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole workflow, to its end; nobody changes it."""
    project = Project(tmp_path_factory.mktemp("faults") / "undisturbed")
    project.write(scenes)
    project.finish_workflow()
    assert project.missing(project) == []
    return project


@pytest.fixture
def copy(undisturbed: Project, tmp_path: Path) -> Copy:
    """Makes a copy of the finished project, without the outputs of a verb where one is named."""
    numbers = itertools.count()

    def make(without: str | None = None) -> Project:
        return undisturbed.copy(tmp_path / f"project{next(numbers)}", without)

    return make


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of its own; skips where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a disk can be mounted by root only: {mounted.stderr.strip()}")
    yield Disk(place)
    subprocess.run(["umount", "--lazy", str(place)], check=True)
