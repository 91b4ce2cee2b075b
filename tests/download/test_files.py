"""Downloads, against a server on loopback that behaves and misbehaves."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobile_sam.config.catalog import KnownCheckpoint
from mobile_sam.download import files
from mobile_sam.download.files import (
    FetchError,
    checkpoint_path,
    fetch_checkpoint,
    forget_second_names,
)
from tests.helpers.servers import CONTENT, Server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("MOBILE_SAM_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    for name, path in (("mobile_sam", "mobile_sam.pt"), ("sam_vit_b", "missing.pt")):
        known = KnownCheckpoint("vit_t", server.url(path), digest)
        monkeypatch.setitem(files.KNOWN_CHECKPOINTS, name, known)
    yield server
    server.http.shutdown()


def test_a_file_is_fetched_once(server: Server) -> None:
    path = fetch_checkpoint("mobile_sam")
    assert path.read_bytes() == CONTENT
    assert fetch_checkpoint("mobile_sam") == path
    assert len(server.ranges) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == [".mobile_sam.pt.lock", "mobile_sam.pt"]


def test_a_file_that_snakemake_deletes_with_its_job_is_not_fetched_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILE_SAM_JOB", "1")
    path = fetch_checkpoint("mobile_sam")
    path.unlink()
    assert fetch_checkpoint("mobile_sam").read_bytes() == CONTENT
    assert len(server.ranges) == 1
    forget_second_names(["mobile_sam", "sam_vit_b"])
    assert sorted(p.name for p in path.parent.iterdir()) == [".mobile_sam.pt.lock", "mobile_sam.pt"]


def test_a_wrong_hash_is_not_kept(server: Server) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(FetchError, match=r"cannot be fetched from http://127.* hash"):
        fetch_checkpoint("mobile_sam")
    assert not checkpoint_path("mobile_sam").exists()
    server.content = CONTENT
    assert fetch_checkpoint("mobile_sam").read_bytes() == CONTENT


def test_a_dropped_connection_goes_on_where_it_ended(server: Server) -> None:
    server.drop_after = 1_500_000
    with pytest.raises(FetchError, match=r"put the file at .*mobile_sam\.pt yourself"):
        fetch_checkpoint("mobile_sam")
    assert not checkpoint_path("mobile_sam").exists()
    server.drop_after = None
    assert fetch_checkpoint("mobile_sam").read_bytes() == CONTENT
    assert server.ranges[0] is None
    assert server.ranges[1] is not None
    assert int(server.ranges[1][6:-1]) > 0


def test_a_missing_file_says_what_to_put_where(server: Server) -> None:
    with pytest.raises(FetchError, match="404") as caught:
        fetch_checkpoint("sam_vit_b")
    assert server.url("missing.pt") in str(caught.value)
    assert str(checkpoint_path("sam_vit_b")) in str(caught.value)


def test_processes_do_not_download_the_same_file_at_once(server: Server) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch_checkpoint("mobile_sam")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(server.ranges) == 1
