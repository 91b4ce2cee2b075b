"""What ends a process as the system does where memory is short; light to import in a new one."""

import os
import signal


def end_this_process(*arguments: object) -> None:
    """Kill the process that calls it, whatever it was to do."""
    os.kill(os.getpid(), signal.SIGKILL)
