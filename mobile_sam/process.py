"""The process of a verb: where it logs, and when it ends."""

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path


def log_to(path: Path | None) -> None:
    """Log to standard error, and to `path` if one is given."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path))
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s  %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
    )
    logging.getLogger("mobile_sam").setLevel(logging.INFO)


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
