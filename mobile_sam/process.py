"""The process of a verb: where it logs, and when it and its workers end."""

import ctypes
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from mobile_sam.faults import fault


def log_to(path: Path | None) -> None:
    """Log to standard error, and to `path` if one is given."""
    style, times = "%(asctime)s  %(message)s", "%H:%M:%S"
    logging.basicConfig(level=logging.WARNING, format=style, datefmt=times, stream=sys.stderr)
    logging.getLogger("mobile_sam").setLevel(logging.INFO)
    # A log on a full disk is no error of its own: what else is written there fails, and says so.
    logging.raiseExceptions = False
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path)
        handler.setFormatter(logging.Formatter(style, times))
        logging.getLogger().addHandler(handler)


def quiet_threads() -> None:
    """Let threads of libraries fail without a traceback where the machine is at fault.

    TensorBoard's writes behind, and the next call of it raises the error in the main thread.
    """
    usual = threading.excepthook

    def tell(error: threading.ExceptHookArgs) -> None:
        if error.exc_value is None or not fault(error.exc_value):
            usual(error)

    threading.excepthook = tell


def end_when_asked() -> None:
    """End at SIGTERM in the ordinary way, which removes what is unfinished."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def end_with_parent() -> None:
    """End when Snakemake or the first rank is killed: without this, an orphan would go on training.

    A rank that Fabric started saves nothing, and may hang in a collective without the first: it is
    killed. All others are asked to end, which saves.
    """
    of_fabric = "LOCAL_RANK" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    orphans = of_fabric or {"MOBILE_SAM_JOB", "LOCAL_RANK"} & set(os.environ)
    if orphans and sys.platform == "linux":
        pr_set_pdeathsig = 1
        number = signal.SIGKILL if of_fabric else signal.SIGTERM
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def workers(count: int) -> dict[str, Any]:
    """Options of a DataLoader whose workers end when the process that has them is killed.

    Workers ask whether their parent is still the one they began with. A fork server, from which
    Python begins them by itself since 3.14, would stay their parent, and all of them would stay.
    """
    forked = count > 0 and sys.platform == "linux"
    return {"num_workers": count, "multiprocessing_context": "fork" if forked else None}
