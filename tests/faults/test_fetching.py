"""Downloads that are killed, asked to end, or fill the disk: they go on where they stopped."""

import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobile_sam.config.catalog import KnownCheckpoint
from mobile_sam.download import files
from tests.helpers.disks import Disk
from tests.helpers.disturbed_commands import Running
from tests.helpers.servers import CONTENT, Server

pytestmark = pytest.mark.faults


class Here:
    """Lets the verb `fetch` of another process know the server on loopback."""

    def __init__(self, url: str, cache: Path) -> None:
        self.url, self.cache = url, cache

    def __call__(self) -> None:
        os.environ["MOBILE_SAM_CACHE"] = str(self.cache)
        digest = hashlib.sha256(CONTENT).hexdigest()
        files.KNOWN_CHECKPOINTS["mobile_sam"] = KnownCheckpoint("vit_t", self.url, digest)


@pytest.fixture
def slow() -> Iterator[Server]:
    """A server that takes a second for the file, of which halves are written at once."""
    server = Server()
    server.pause = 1 / 32
    yield server
    server.http.shutdown()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_a_download_that_is_ended_goes_on_where_it_stopped(
    number: signal.Signals, slow: Server, tmp_path: Path
) -> None:
    here = Here(slow.url("mobile_sam.pt"), tmp_path / "cache")
    rng, target = random.Random(0), tmp_path / "cache" / "mobile_sam.pt"
    for after in (0.6, 0.1, 0.1):  # seconds: the first half has come, and no more
        asked = len(slow.ranges)
        running = Running(tmp_path, "fetch", "mobile_sam", before=here)
        while len(slow.ranges) == asked:
            time.sleep(0.001)
        time.sleep(after + rng.uniform(0, 0.2))
        ended = running.signal(number)
        assert ended.status in {-signal.SIGKILL, 128 + signal.SIGTERM}
        assert "Traceback" not in ended.output
        assert not target.exists()
    running = Running(tmp_path, "fetch", "mobile_sam", before=here)
    assert running.wait().status == 0
    assert target.read_bytes() == CONTENT
    starts = [int((given or "bytes=0-")[6:-1]) for given in slow.ranges]
    assert starts == sorted(starts)
    assert starts[-1] > 0


def test_a_download_that_fills_the_disk_goes_on_with_room(slow: Server, disk: Disk) -> None:
    here = Here(slow.url("mobile_sam.pt"), disk.place / "cache")
    disk.fill(1000)
    running = Running(disk.place, "fetch", "mobile_sam", before=here)
    sentence = running.wait().sentence
    assert sentence.startswith(f"{disk.place}/cache/")
    assert "the disk is full; free some space" in sentence
    assert not (disk.place / "cache" / "mobile_sam.pt").exists()
    disk.free()
    assert Running(disk.place, "fetch", "mobile_sam", before=here).wait().status == 0
    assert (disk.place / "cache" / "mobile_sam.pt").read_bytes() == CONTENT
