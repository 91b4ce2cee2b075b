"""Public data sets: fetched from a server on loopback, unpacked into the ordinary layout."""

import hashlib
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobile_sam.config.catalog import KNOWN_DATASETS, known_dataset
from mobile_sam.config.load import resolve
from mobile_sam.data.records import find_records
from mobile_sam.data.synthetic import scene
from mobile_sam.download import datasets
from mobile_sam.download.datasets import fetch_dataset, split_of, unpack
from mobile_sam.download.files import FetchError
from mobile_sam.system.atomic_files import unfinished_path
from tests.helpers.commands import snakemake
from tests.helpers.servers import Server


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def archive(images: int = 30) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        for number in range(images):
            pixels, masks = scene(64, np.random.default_rng(number))
            name = f"train-hand/cell{number}"
            content.writestr(f"{name}/images/cell{number}.png", png(pixels))
            for k, mask in enumerate(masks):
                content.writestr(f"{name}/masks/{k}.png", png(mask))
        content.writestr("train-hand/README.md", "hello")
    return buffer.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    server.content = archive()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOBILE_SAM_CACHE", str(tmp_path / "cache"))
    known = replace(
        KNOWN_DATASETS["nuclei"],
        url=server.url("train-hand.zip"),
        sha256=hashlib.sha256(server.content).hexdigest(),
    )
    monkeypatch.setitem(datasets.KNOWN_DATASETS, "nuclei", known)
    return server


def test_one_of_two_unpacks_and_what_a_killed_one_left_goes(server: Server) -> None:
    unfinished_path(Path("data/nuclei")).mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fetch_dataset, ["nuclei"] * 2)) == [Path("data/nuclei")] * 2
    assert sorted(path.name for path in Path("data").iterdir()) == [".nuclei.lock", "nuclei"]


def test_nuclei_are_unpacked_into_the_ordinary_layout(server: Server) -> None:
    directory = fetch_dataset("nuclei")
    found = 0
    for split in ("train", "val"):
        there = find_records(directory / split / "image", directory / split / "mask")
        assert not there.problems
        assert all(split_of(record.image_id, 0.15) == split for record in there.records)
        found += len(there.records)
    assert found == 30
    assert fetch_dataset("nuclei") == directory
    KNOWN_DATASETS["nuclei"].manifest.unlink()  # as Snakemake does when the job is ended
    assert fetch_dataset("nuclei") == directory
    assert KNOWN_DATASETS["nuclei"].manifest.is_file()
    assert len(server.ranges) == 1


def test_the_shipped_run_names_the_data_set() -> None:
    assert known_dataset(resolve("nuclei", None, {}).named[0]) == KNOWN_DATASETS["nuclei"]
    assert known_dataset(resolve("mobileSAM", None, {}).named[0]) is None


def test_an_interrupted_download_leaves_no_half_data_set(server: Server) -> None:
    server.drop_after = 5000
    with pytest.raises(FetchError, match="put the file at"):
        fetch_dataset("nuclei")
    assert not Path("data/nuclei").exists()
    server.drop_after = None
    assert fetch_dataset("nuclei").is_dir()


def test_files_of_the_user_are_not_touched(server: Server) -> None:
    Path("data/nuclei").mkdir(parents=True)
    Path("data/nuclei/mine.txt").write_text("mine")
    with pytest.raises(FetchError, match="holds other files; move them elsewhere"):
        fetch_dataset("nuclei")
    assert Path("data/nuclei/mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["../x/images/a.png", "/etc/x/images/a.png", "a/../../images/b.png"]
)
def test_members_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr(name, b"x")
    with pytest.raises(FetchError, match="leaves the folder"):
        unpack(path, tmp_path / "out", 0.1)
    assert not list(tmp_path.rglob("*.png"))


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as content:
        link = zipfile.ZipInfo("a/images/a.png")
        link.external_attr = 0o120777 << 16
        content.writestr(link, "/etc/passwd")
    with pytest.raises(FetchError, match="leaves the folder"):
        unpack(path, tmp_path / "out", 0.1)


def test_an_archive_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("hello.txt", b"x")
    with pytest.raises(FetchError, match="there is no <id>/images/"):
        unpack(path, tmp_path / "out", 0.1)


def test_offline_the_workflow_says_what_to_put_where(tmp_path: Path) -> None:
    """The shipped address cannot be reached where tests run, or answers; both end in a plan."""
    result = snakemake(tmp_path, "-n", "--config", "run=nuclei", "checkpoint=null")
    if result.returncode == 0:
        assert "fetch_nuclei" in result.stdout + result.stderr
    else:
        assert "train-hand.zip yourself" in result.stderr
        assert "overlay=demo" in result.stderr
