"""Points at which a test can stop a process, to end it exactly there."""

import os
from pathlib import Path

VARIABLE = "MOBILE_SAM_STOP_AT"


def stopping_point(name: str) -> None:
    """Wait here if the environment names this point; return at once otherwise.

    MOBILE_SAM_STOP_AT is `<name>=<FIFO>`. A process that can open the FIFO for writing knows that
    the point has been reached; the wait ends when it closes the FIFO, or with a signal that ends
    this process.
    """
    requested, _, fifo = os.environ.get(VARIABLE, "").partition("=")
    if requested == name:
        Path(fifo).read_bytes()
