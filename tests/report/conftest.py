"""A finished run whose results are made up, and its report."""

from pathlib import Path

import pytest

from mobile_sam.config.run import RunConfig
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.paths import RunPaths
from mobile_sam.report.write import write_report
from tests.helpers.report_runs import write_extras, write_run
from tests.helpers.report_tables import EVERY


@pytest.fixture(scope="session")
def six_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of four training and six validation images, 96 pixels wide."""
    directory = tmp_path_factory.mktemp("six_scenes")
    write_scenes(directory / "train", 4, 96, seed=0)
    write_scenes(directory / "val", 6, 96, seed=1)
    return directory


@pytest.fixture(scope="session")
def finished(six_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of two stages with every prompt, costs, AP and times. Not to be changed by tests."""
    config = write_run(six_scenes, tmp_path_factory.mktemp("finished"), prompts=EVERY)
    write_extras(config)
    return config


@pytest.fixture(scope="session")
def page(finished: RunConfig) -> Path:
    """The report of `finished`."""
    write_report(finished)
    return RunPaths(finished).report / "index.html"
