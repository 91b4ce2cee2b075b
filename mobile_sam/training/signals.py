"""Signals that end a training: recorded, and agreed on by all ranks."""

import logging
import signal
from types import FrameType
from typing import NoReturn

import torch
from lightning_fabric import Fabric

log = logging.getLogger(__name__)

# What schedulers and Ctrl-C send; SIGUSR1 is SLURM's warning before the time limit.
_ASK_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_FAREWELL = "asked to end; the same command goes on from here"


class Interrupted(SystemExit):
    """Exit of a process that received a signal and has saved its state."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def end_all(fabric: Fabric, reason: BaseException) -> NoReturn:
    """End each rank for a reason that all of them know: the first raises it, the others just exit.

    Quiet is status 0: for any other, Fabric kills the first rank where it stands.
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
        self._before = {number: signal.signal(number, self._remember) for number in _ASK_TO_END}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def requested_anywhere(self) -> bool:
        """Return whether any rank received a signal; all ranks must call this at once."""
        if self.fabric.world_size == 1:
            return self.requested
        asked = torch.tensor(float(self.requested), device=self.fabric.device)
        self.fabric.all_reduce(asked, reduce_op="sum")
        return asked.item() > 0

    def end(self) -> NoReturn:
        """End all ranks, after the state has been saved."""
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            log.info(_FAREWELL)
        end_all(self.fabric, Interrupted())

    def end_if_requested(self) -> None:
        """End this rank, where ranks work independently and keep what they finish."""
        if self.requested:
            log.info(_FAREWELL)
            raise Interrupted
