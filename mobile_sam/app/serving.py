"""Server of the app on this machine; it contacts no other host and keeps no files."""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mobile_sam.app.predictor_cache import PredictorCache
from mobile_sam.data.index.table import IndexedImage
from mobile_sam.system.errors import UserError

# gradio and its dependencies read these variables on import.
_NO_TELEMETRY = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


@contextmanager
def serve_page(
    predictors: PredictorCache,
    examples: Sequence[IndexedImage],
    title: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
) -> Iterator[str]:
    """Serve the page while the context lasts; yield its address.

    port: None or 0 for the first free one from 7860 on. open_browser: open the page in a browser.
    Uploads are kept in a temporary directory, which is removed at the end.
    Raises UserError if gradio is not installed, and for a port that is in use.
    """
    with tempfile.TemporaryDirectory(prefix="mobile_sam-") as uploads:
        os.environ |= {**_NO_TELEMETRY, "GRADIO_TEMP_DIR": uploads, "no_proxy": _no_proxy(host)}
        try:
            from mobile_sam.app.page import MAX_UPLOAD, STYLE, build_page
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise UserError(
                "the app needs gradio, which is not installed; pip install -e '.[app]'"
            ) from error
        page = build_page(predictors, examples, Path(uploads), title)
        try:
            yield _launch(page, host, port, open_browser, MAX_UPLOAD, STYLE)
        finally:
            page.close(verbose=False)


def _no_proxy(host: str) -> str:
    """List hosts that are reached without a proxy; gradio checks its own server by a request."""
    current = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return ",".join([*([current] if current else []), "127.0.0.1", "localhost", host])


def _launch(
    page: Any,
    host: str,
    port: int | None,
    open_browser: bool,
    max_upload: str,
    style: dict[str, Any],
) -> str:
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port or None,
            inbrowser=open_browser,
            max_file_size=max_upload.replace(" ", "").lower(),
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
            f"--port {port}: in use by another program; give another port, or leave out --port"
        ) from error
    return url


def wait_until_interrupted() -> None:
    """Wait for Ctrl-C, also in background jobs, for which shells disable it by default."""

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
