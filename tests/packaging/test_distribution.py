"""The sdist and the wheel: what is in them, and that they work outside the repository."""

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.distributions import TINY, Distribution, build, outside

# Of the package, beside its own files.
BROUGHT_ALONG = {
    "configs/": "mobile_sam/configs/",
    "Snakefile": "mobile_sam/snakemake/Snakefile",
    "workflow/": "mobile_sam/snakemake/workflow/",
    "profiles/": "mobile_sam/snakemake/profiles/",
    "mobile_sam/": "mobile_sam/",
}
CONSUMER = """
import mobile_sam
from mobile_sam import SamPredictor, load_run

model = load_run("my_run")
reveal_type(model)
reveal_type(SamPredictor(model).predict())
reveal_type(mobile_sam.__version__)
load_run(1)
"""


def repository() -> set[str]:
    """All files that git has, or would have."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.splitlines() if (ROOT / name).is_file()}


def in_wheel(name: str) -> str | None:
    """Where a file of the repository is in the wheel."""
    for begin, place in BROUGHT_ALONG.items():
        if name == begin or (begin.endswith("/") and name.startswith(begin)):
            return place + name.removeprefix(begin)
    return None


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_sdist_is_the_repository(distribution: Distribution) -> None:
    with tarfile.open(distribution.sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert names == repository() | {"PKG-INFO"}


def test_the_wheel_has_the_package_its_runs_and_its_workflow(distribution: Distribution) -> None:
    files = {n: data for n, data in content(distribution.wheel).items() if ".dist-info/" not in n}
    wanted = {place: name for name in repository() if (place := in_wheel(name))}
    assert set(files) == set(wanted)
    assert files == {place: (ROOT / name).read_bytes() for place, name in wanted.items()}
    for name in (
        "py.typed",
        "report/page.css",
        "configs/overlays/tiny.json",
        "snakemake/Snakefile",
    ):
        assert f"mobile_sam/{name}" in files


def test_the_wheel_is_the_same_built_from_the_sdist_or_not(
    distribution: Distribution, tmp_path: Path
) -> None:
    build(ROOT, tmp_path, "--wheel")
    (wheel,) = tmp_path.iterdir()
    assert wheel.name == distribution.wheel.name
    assert content(wheel) == content(distribution.wheel)


def test_the_wheel_says_what_it_is(distribution: Distribution) -> None:
    files = content(distribution.wheel)
    (about,) = (message_from_bytes(d) for n, d in files.items() if n.endswith("/METADATA"))
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Author"] == "The mobile_sam authors"
    assert "Typing :: Typed" in about.get_all("Classifier", [])
    assert about.get_payload().startswith("# mobile_sam")
    (license_file,) = (d for n, d in files.items() if n.endswith("/licenses/LICENSE"))
    assert license_file == (ROOT / "LICENSE").read_bytes()
    (entries,) = (d for n, d in files.items() if n.endswith("/entry_points.txt"))
    assert b"mobile-sam = mobile_sam.__main__:main" in entries


def test_the_workflow_of_the_wheel_plans_a_run_in_an_empty_directory(
    unpacked: Path, tmp_path: Path
) -> None:
    asked = outside([unpacked, "-m", "mobile_sam", "where"], tmp_path)
    snakefile = Path(asked.stdout.strip())
    assert ROOT not in snakefile.parents
    command = [unpacked, "-m", "snakemake", "-s", snakefile, "--dry-run", *TINY]
    planned = outside(command, tmp_path)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "train_mobileSAM_tiny_00_finetune" in planned.stdout + planned.stderr
    assert "profiles/default" in planned.stdout + planned.stderr


@pytest.mark.parametrize("what", ["snakefile", "configs", "profiles"])
def test_what_is_shipped_is_where_the_package_says(what: str, unpacked: Path) -> None:
    for python, root in ((unpacked, unpacked.parents[2]), (None, ROOT)):
        command = [python or sys.executable, "-m", "mobile_sam", "where", what]
        place = Path(outside(command, ROOT if python is None else root).stdout.strip())
        assert place.exists()
        assert root in place.parents


def test_a_type_checker_sees_the_types_of_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    # What is in other packages is of no interest here, and takes a quarter of a minute.
    others = "mypy-torch.*,timm.*,pandas.*,pydantic.*,lightning_fabric.*"
    (tmp_path / "mypy.ini").write_text(f"[{others}]\nfollow_imports = skip\n")
    checked = outside(
        [sys.executable, "-m", "mypy", "--python-executable", unpacked, "consumer.py"], tmp_path
    )
    said = [line for line in checked.stdout.splitlines() if line.startswith("consumer.py")]
    assert "mobile_sam.models.sam.Sam" in said[0]
    assert "numpy.ndarray" in said[1]
    assert said[2].endswith(('"str"', '"builtins.str"'))
    assert 'Argument 1 to "load_run" has incompatible type "int"' in said[3]
    assert len(said) == 4
