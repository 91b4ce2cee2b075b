"""Points at which a test can stop a process, in order to end it there."""

import os
from pathlib import Path

VARIABLE = "MOBILE_SAM_STOP_AT"


def stopping_point(name: str) -> None:
    """Wait here if the environment names this point; return at once otherwise.

    MOBILE_SAM_STOP_AT is `<name>=<FIFO>`. Another process can open the FIFO for writing as soon as
    this point is reached. The wait ends when that process closes the FIFO, or when a signal ends
    this process.
    """
    requested, _, fifo = os.environ.get(VARIABLE, "").partition("=")
    if requested == name:
        Path(fifo).read_bytes()
