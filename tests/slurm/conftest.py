"""A cluster for the whole session, and what the same runs give without one."""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.slurm_cluster import PROGRAMS, Cluster
from tests.helpers.slurm_workflows import LONG, Submitted, run_locally


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
    run_locally(directory, teacher, *LONG.arguments(1))
    return directory


@pytest.fixture(scope="session")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Makes copies of it in which a local training of so many epochs has ended."""

    @cache
    def train(epochs: int) -> Path:
        directory = tmp_path_factory.mktemp("undisturbed") / "project"
        shutil.copytree(prepared, directory)
        run_locally(directory, *LONG.target, *LONG.arguments(epochs))
        return directory

    return train


@pytest.fixture(scope="session")
def epochs(undisturbed: Callable[[int], Path]) -> int:
    """How many epochs take half a minute, however fast the machine is."""
    seconds = pd.read_csv(undisturbed(30) / LONG.metrics)["seconds"]
    return math.ceil(30 / seconds.median())


@pytest.fixture
def submitted(cluster: Cluster, prepared: Path, tmp_path: Path) -> Iterator[Submitted]:
    """The long training, on the cluster."""
    directory = tmp_path / "project"
    shutil.copytree(prepared, directory)
    submitted = Submitted(directory)
    yield submitted
    submitted.end()
    cluster.wait_until_idle()
