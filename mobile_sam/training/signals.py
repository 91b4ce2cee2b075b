"""Signals that end a training: recorded, and agreed on by all ranks."""

import logging
import signal
from types import FrameType
from typing import NoReturn

import torch
from lightning_fabric import Fabric

log = logging.getLogger(__name__)

# From schedulers and Ctrl-C; SIGUSR1 is SLURM's warning before the time limit.
_END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_LAST_MESSAGE = "received a signal to end; run the same command again to continue"


class Interrupted(SystemExit):
    """Exit of a process that received a signal and has saved its state."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def end_all(fabric: Fabric, reason: BaseException) -> NoReturn:
    """End all ranks for a reason that they share: the first raises it, the others only exit.

    The others exit with status 0: for any other status, Fabric kills the first rank at once.
    """
    if fabric.is_global_zero:
        raise reason
    raise SystemExit(0)


class SignalHandler:
    """Context that records a signal to end the process."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.requested = False

    def __enter__(self) -> "SignalHandler":
        self._before = {number: signal.signal(number, self._remember) for number in _END_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def requested_anywhere(self) -> bool:
        """Return whether any rank received a signal; all ranks must call this together."""
        if self.fabric.world_size == 1:
            return self.requested
        count = torch.tensor(float(self.requested), device=self.fabric.device)
        self.fabric.all_reduce(count, reduce_op="sum")
        return count.item() > 0

    def end(self) -> NoReturn:
        """End all ranks after the state was saved."""
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            log.info(_LAST_MESSAGE)
        end_all(self.fabric, Interrupted())

    def end_if_requested(self) -> None:
        """End this rank; for work that ranks do independently, and whose finished part is kept."""
        if self.requested:
            log.info(_LAST_MESSAGE)
            raise Interrupted
