"""Disks that are full, read-only or forbidden: a sentence, nothing half-written, and it goes on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.disks import Disk
from tests.helpers.fault_projects import OUTPUTS, Project

pytestmark = pytest.mark.faults

# KiB that are left: too few for the first file, and for a later one.
ROOM = {
    "index": (0, 8),
    "extract": (0, 40),
    "train": (0, 3000),
    "export": (0, 300),
    "validate": (0, 60),
    "report": (0, 1000),
}


@pytest.mark.parametrize("verb", OUTPUTS)
def test_on_a_full_disk_a_verb_says_so_and_goes_on_with_room(
    verb: str, disk: Disk, undisturbed: Project
) -> None:
    project = undisturbed.copy(disk.place / "project", without=verb)
    others = project.files(verb)
    for left in ROOM[verb]:
        disk.fill(left)
        sentence = project.verb(verb).sentence
        assert sentence.startswith(("results/mobile_sam/", "the features of 10 images need"))
        assert "free some space" in sentence
        assert project.differing(undisturbed, verb) == project.unfinished() == []
    assert "the disk is full; free some space, and run the same command again to" in sentence
    disk.free()
    project.finish(verb)
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
    assert project.files(verb) == others


@pytest.mark.parametrize("verb", OUTPUTS)
def test_on_a_read_only_disk_a_verb_says_so(verb: str, disk: Disk, undisturbed: Project) -> None:
    project = undisturbed.copy(disk.place / "project", without=verb)
    others = project.files()
    disk.read_only()
    sentence = project.verb(verb).sentence
    logged = project.verb(verb, "--log", "results/mobile_sam/my/logs/again.log").sentence
    disk.read_only(False)
    for said in (sentence, logged):
        assert "results/mobile_sam/" in said
        assert "the disk is read-only; make it writable" in said
    assert project.files() == others
    project.finish(verb)
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_on_a_read_only_disk_the_workflow_has_nothing_to_say_where_all_is_done(
    disk: Disk, undisturbed: Project
) -> None:
    """Results may be mounted read-only to look at them; Snakemake's own directory may not."""
    results = undisturbed.copy(disk.place / "project").directory / "results"
    project = Project(disk.place.parent / "elsewhere")
    shutil.copytree(
        undisturbed.directory, project.directory, ignore=shutil.ignore_patterns("results")
    )
    (project.directory / "results").symlink_to(results)
    disk.read_only()
    assert "Nothing to be done" in project.finish_workflow()
    (project.directory / "my.json").write_text(
        (project.directory / "my.json").read_text().replace('"batch_size": 4', '"batch_size": 2')
    )
    ended = project.snakemake()
    disk.read_only(False)
    assert ended.status == 1
    assert "Traceback" not in ended.output
    assert "Write-protected output files" in ended.output
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_a_full_shared_memory_says_what_to_lower(undisturbed: Project, tmp_path: Path) -> None:
    """Processes that read hand their batches over in /dev/shm, which is small in containers."""
    project = undisturbed.copy(tmp_path / "project", without="train")
    settings = (project.directory / "my.json").read_text()
    more = settings.replace("{", '{"num_workers": 1, ', 1)
    (project.directory / "workers.json").write_text(more)
    small = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    command = f"{small} && exec {sys.executable} -m mobile_sam train --config workers.json"
    found = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        cwd=project.directory,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/sbin:/usr/bin:/bin"},
    )
    if "unshare" in found.stderr or "mount:" in found.stderr:
        pytest.skip(f"needs root: {found.stderr.strip()}")
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert "(/dev/shm) is full; lower num_workers, or make it larger" in found.stderr
    project.finish("train")
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
