"""A cluster for the whole session, and what the same runs give without one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import PROGRAMS, Cluster
from tests.slurm.workflows import LONG, Submitted, run_locally


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [p for p in PROGRAMS if not shutil.which(p, path=f"{os.environ['PATH']}:/usr/sbin")]
    if missing or os.geteuid() != 0:
        pytest.skip(f"missing: {missing}, user {os.geteuid()}; `make test-slurm` as root has all")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which everything is done that stands before the long training."""
    directory = tmp_path_factory.mktemp("prepared")
    teacher = "results/mobile_sam/demo_teacher-tiny/weights.pt"
    run_locally(directory, teacher, *LONG.arguments)
    return directory


@pytest.fixture(scope="session")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it in which a local training has ended."""
    directory = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(prepared, directory)
    run_locally(directory, LONG.checkpoint, *LONG.arguments)
    return directory


@pytest.fixture
def submitted(cluster: Cluster, prepared: Path, tmp_path: Path) -> Iterator[Submitted]:
    """The long training, on the cluster."""
    directory = tmp_path / "project"
    shutil.copytree(prepared, directory)
    submitted = Submitted(directory)
    yield submitted
    submitted.end()
    cluster.wait_until_idle()
