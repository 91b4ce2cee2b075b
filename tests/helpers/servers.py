"""An HTTP server on loopback that behaves and misbehaves."""

import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
