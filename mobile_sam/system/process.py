"""Process of a command: its log, its signals, and the end of its child processes."""

import ctypes
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from mobile_sam.system.machine_errors import machine_fault


def log_to(
    path: Path | None, level: int = logging.INFO, library_level: int = logging.WARNING
) -> None:
    """Log to standard error, and to `path` if one is given.

    level, library_level: minimum levels of messages of this package and of libraries.
    """
    style, times = "%(asctime)s  %(message)s", "%H:%M:%S"
    logging.basicConfig(level=library_level, format=style, datefmt=times, stream=sys.stderr)
    logging.getLogger("mobile_sam").setLevel(level)
    # A full disk is no error of the log: other writes to the disk fail with a message.
    logging.raiseExceptions = False
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(logging.Formatter(style, times))
        logging.getLogger().addHandler(handler)


def quiet_threads() -> None:
    """Suppress tracebacks of library threads for faults of the machine.

    TensorBoard writes in a thread; its next call raises the error in the main thread.
    """
    default_hook = threading.excepthook

    def hook(error: threading.ExceptHookArgs) -> None:
        if error.exc_value is None or not machine_fault(error.exc_value):
            default_hook(error)

    threading.excepthook = hook


def exit_on_sigterm() -> None:
    """Exit normally at SIGTERM, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def end_with_parent() -> None:
    """End this process when Snakemake or the first rank is killed, so that no orphan trains.

    A rank that Fabric started saves nothing, and may hang in a collective without the first rank:
    it is killed. All other processes get SIGTERM, at which they save.
    """
    is_fabric_rank = "LOCAL_RANK" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    has_parent = is_fabric_rank or {"MOBILE_SAM_JOB", "LOCAL_RANK"} & set(os.environ)
    if has_parent and sys.platform == "linux":
        pr_set_pdeathsig = 1
        number = signal.SIGKILL if is_fabric_rank else signal.SIGTERM
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def loader_options(count: int) -> dict[str, Any]:
    """Return options of a DataLoader whose workers end when their process is killed.

    Workers end when their parent changes. A fork server, Python's default since 3.14, would stay
    their parent, so they would not end.
    """
    forked = count > 0 and sys.platform == "linux"
    return {
        "num_workers": count,
        "multiprocessing_context": "fork" if forked else None,
        "worker_init_fn": _begin_worker,
    }


def _begin_worker(number: int) -> None:
    """Use one thread, and accept SIGTERM from the parent only.

    PyTorch sets its own number of threads to 1. SLURM signals all processes of a job; without this,
    workers would end while the trainer still needs their images.
    """
    import cv2

    # 0 disables OpenCV's threads; with 1 it waits for threads that do not exist after a fork.
    cv2.setNumThreads(0)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parents_signal, daemon=True, name="signals").start()


def _end_with_parents_signal() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
