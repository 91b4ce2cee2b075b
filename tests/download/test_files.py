"""Downloads, against a server on loopback that behaves and misbehaves."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mobile_sam import fetch
from mobile_sam.fetch import FetchError, KnownCheckpoint, checkpoint_path, fetch_checkpoint

CONTENT = bytes(range(256)) * 8192  # 2 MiB


class Server:
    """Serves CONTENT at every path but `/missing.pt`; `drop_after` cuts the connection.

    pause: seconds before each 64 KiB.
    """

    def __init__(self) -> None:
        self.content = CONTENT
        self.drop_after: int | None = None
        self.pause = 0.0
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers.get("Range"))
                if self.path == "/missing.pt":
                    self.send_error(404)
                    return
                start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                body = body if outer.drop_after is None else body[: outer.drop_after]
                with suppress(ConnectionError):
                    for begin in range(0, len(body), 1 << 16):
                        time.sleep(outer.pause)
                        self.wfile.write(body[begin : begin + (1 << 16)])

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{path}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("MOBILE_SAM_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    for name, path in (("mobile_sam", "mobile_sam.pt"), ("sam_vit_b", "missing.pt")):
        known = KnownCheckpoint("vit_t", server.url(path), digest)
        monkeypatch.setitem(fetch.KNOWN_CHECKPOINTS, name, known)
    yield server
    server.http.shutdown()


def test_a_file_is_fetched_once(server: Server) -> None:
    path = fetch_checkpoint("mobile_sam")
    assert path.read_bytes() == CONTENT
    assert fetch_checkpoint("mobile_sam") == path
    assert len(server.ranges) == 1
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
