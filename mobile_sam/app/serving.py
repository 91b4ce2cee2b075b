"""The app as a server on this machine, which sends nothing anywhere else and keeps nothing."""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mobile_sam.app.asking import Asker
from mobile_sam.config import UserError
from mobile_sam.data.index import IndexedImage

# Read by gradio and by what it imports, when they are imported.
_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


@contextmanager
def served(
    asker: Asker,
    examples: Sequence[IndexedImage],
    title: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
) -> Iterator[str]:
    """Serve the page as long as the context lasts; gives its address.

    port: None or 0 is the first free one from 7860 on. open_browser: show the page there.
    What visitors upload lies in a temporary directory, which is removed at the end.
    Raises UserError where gradio is not installed, and for a port that is taken.
    """
    with tempfile.TemporaryDirectory(prefix="mobile_sam-") as uploads:
        os.environ |= {**_QUIET, "GRADIO_TEMP_DIR": uploads, "no_proxy": _direct(host)}
        try:
            from mobile_sam.app.page import LIMIT, STYLE, build_page
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise UserError(
                "the app needs gradio, which is not installed; pip install -e '.[app]'"
            ) from error
        page = build_page(asker, examples, Path(uploads), title)
        try:
            yield _launched(page, host, port, open_browser, LIMIT, STYLE)
        finally:
            page.close(verbose=False)


def _direct(host: str) -> str:
    """Hosts that no proxy stands before: gradio asks its own server whether it answers."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return ",".join([*([given] if given else []), "127.0.0.1", "localhost", host])


def _launched(
    page: Any, host: str, port: int | None, open_browser: bool, limit: str, style: dict[str, Any]
) -> str:
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port or None,
            inbrowser=open_browser,
            max_file_size=limit.replace(" ", "").lower(),
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            **style,
        )
    except OSError as error:
        if "empty port" not in str(error):
            raise
        raise UserError(
            f"--port {port}: something else listens there; give another, or none for a free one"
        ) from error
    return url


def until_interrupted() -> None:
    """Wait for Ctrl-C, which shells keep from jobs in the background unless they are asked to."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
