"""Process of a command: its log, and when it and its workers end."""

import ctypes
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from mobile_sam.system.machine_errors import machine_fault


def log_to(path: Path | None, own: int = logging.INFO, others: int = logging.WARNING) -> None:
    """Log to standard error, and to `path` if one is given.

    own, others: minimum levels of messages of this package and of libraries.
    """
    style, times = "%(asctime)s  %(message)s", "%H:%M:%S"
    logging.basicConfig(level=others, format=style, datefmt=times, stream=sys.stderr)
    logging.getLogger("mobile_sam").setLevel(own)
    # A log on a full disk raises no error of its own: other writes there fail with a message.
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
    usual = threading.excepthook

    def tell(error: threading.ExceptHookArgs) -> None:
        if error.exc_value is None or not machine_fault(error.exc_value):
            usual(error)

    threading.excepthook = tell


def end_when_asked() -> None:
    """Exit in the ordinary way at SIGTERM, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def end_with_parent() -> None:
    """End this process when Snakemake or the first rank is killed; no orphan goes on training.

    A rank that Fabric started saves nothing, and may hang in a collective without the first rank:
    it is killed. All other processes get SIGTERM, at which they save.
    """
    of_fabric = "LOCAL_RANK" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    orphans = of_fabric or {"MOBILE_SAM_JOB", "LOCAL_RANK"} & set(os.environ)
    if orphans and sys.platform == "linux":
        pr_set_pdeathsig = 1
        number = signal.SIGKILL if of_fabric else signal.SIGTERM
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def workers(count: int) -> dict[str, Any]:
    """Return options of a DataLoader whose workers end when their process is killed.

    Workers check whether their parent has changed. A fork server, Python's default since 3.14,
    would stay their parent, so that they would not end.
    """
    forked = count > 0 and sys.platform == "linux"
    return {
        "num_workers": count,
        "multiprocessing_context": "fork" if forked else None,
        "worker_init_fn": _begin_worker,
    }


def _begin_worker(number: int) -> None:
    """Use one thread, and accept SIGTERM from the parent only.

    PyTorch sets its own number of threads to 1. SLURM signals all processes of a job, which would
    otherwise end workers while the trainer still needs their images.
    """
    import cv2

    # With 1, OpenCV would wait for threads that do not exist after a fork.
    cv2.setNumThreads(0)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parents_signal, daemon=True, name="signals").start()


def _end_with_parents_signal() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
