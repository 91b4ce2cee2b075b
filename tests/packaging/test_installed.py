"""The wheel as somebody has it who never saw the repository; minutes, for torch is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

import mobile_sam
from tests.helpers.distributions import TINY, TORCH, Distribution, outside

pytestmark = pytest.mark.package

USING = """
import numpy as np, mobile_sam
predictor = mobile_sam.SamPredictor(mobile_sam.load_run("mobileSAM-tiny"))
predictor.set_image(np.zeros((48, 64, 3), np.uint8))
masks, scores, logits = predictor.predict(box=np.array([8, 8, 40, 40]), multimask_output=False)
print(mobile_sam.__version__, *masks.shape, mobile_sam.__file__)
"""


@pytest.fixture(scope="module")
def scripts(distribution: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment, with the wheel and what it asks for alone."""
    environment = tmp_path_factory.mktemp("new")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *TORCH.split(), str(distribution.wheel)], check=True)
    return environment / "bin"


@pytest.fixture(scope="module")
def finished(scripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that was empty before the workflow of the wheel ran in it."""
    directory = tmp_path_factory.mktemp("empty")
    snakefile = outside([scripts / "mobile-sam", "where"], directory).stdout.strip()
    done = outside([scripts / "snakemake", "-s", snakefile, *TINY], directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_the_script_says_its_name(scripts: Path, tmp_path: Path) -> None:
    shown = outside([scripts / "mobile-sam", "--help"], tmp_path)
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: mobile-sam ")


def test_nothing_that_is_installed_contradicts_another(scripts: Path, tmp_path: Path) -> None:
    checked = outside([scripts / "python", "-m", "pip", "check"], tmp_path)
    assert checked.returncode == 0, checked.stdout


def test_the_workflow_runs_in_an_empty_directory(finished: Path) -> None:
    run = finished / "results" / "mobile_sam" / "mobileSAM-tiny"
    assert (run / "weights.pt").is_file()
    assert (run / "report" / "index.html").is_file()


def test_its_weights_are_used(scripts: Path, finished: Path) -> None:
    used = outside([scripts / "python", "-c", USING], finished)
    assert used.returncode == 0, used.stderr
    version, *shape, place = used.stdout.split()
    assert version == mobile_sam.__version__
    assert shape == ["1", "48", "64"]
    assert scripts.parent in Path(place).parents
