"""Training in processes of its own, which may be ended on their way."""

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch

from mobile_sam.__main__ import main
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint

# Forks of a process that has imported everything and trained nothing: a start costs no seconds.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["mobile_sam.training.run", "torch.utils.tensorboard"])


def start(
    config: RunConfig,
    *arguments: str,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> BaseProcess:
    """Begin `train` with the settings of a run.

    before: is called in the process, first of all.
    """
    path = RunPaths(config).settings
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json(exclude={"schema_file"}))
    verb = ["train", "--config", str(path), "--log", str(path.with_name("log")), *arguments]
    process = _SERVER.Process(target=_run, args=(verb, environment or {}, before))
    process.start()
    return process


def _run(verb: list[str], environment: dict[str, str], before: Callable[[], None] | None) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment)
    if before is not None:
        before()
    sys.exit(main(verb))


def log_of(config: RunConfig) -> str:
    """All that processes of a run have logged."""
    return RunPaths(config).settings.with_name("log").read_text()


def train(config: RunConfig, *arguments: str) -> str:
    """Run `train` to its end; returns what it logged."""
    process = start(config, *arguments)
    process.join()
    assert process.exitcode == 0, log_of(config)
    return log_of(config)


def start_ranks(config: RunConfig, **options: Callable[[], None]) -> list[BaseProcess]:
    """Begin `train` in one process for each of `devices`, in the environment of torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    common["WORLD_SIZE"] = str(config.devices)
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(config.devices)]
    return [start(config, environment=common | rank, **options) for rank in ranks]


def train_ranks(config: RunConfig) -> None:
    """Run `train` to its end, by one process for each of `devices`."""
    processes = start_ranks(config)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * config.devices, log_of(config)


def wait_for(config: RunConfig, process: BaseProcess, epoch: int, batch: int = 0) -> None:
    """Until the last stage has saved this place, or a later one."""
    resume = RunPaths(config).state(normalise(config)[-1]) / "resume.pt"
    deadline = time.monotonic() + 120
    while True:
        assert process.is_alive(), "it ended before it could be killed"
        assert time.monotonic() < deadline
        if resume.is_file():
            progress = checkpoint.load(resume)["progress"]
            if (progress["epoch"], progress["batch"]) >= (epoch, batch):
                return
        time.sleep(0.01)


def end_in_last_stage(config: RunConfig, number: signal.Signals, epoch: int) -> int | None:
    """Run `train`, and send it a signal once the last stage has saved `epoch` or a later one.

    Returns the exit status.
    """
    process = start(config)
    wait_for(config, process, epoch)
    os.kill(process.pid or 0, number)
    process.join()
    assert not RunPaths(config).checkpoint(normalise(config)[-1]).is_file()
    return process.exitcode


def killed_at_random(config: RunConfig, seconds: float, rng: random.Random) -> bool:
    """Run `train`, and kill it within so many seconds; returns whether it had ended before."""
    process = start(config)
    process.join(rng.uniform(0, seconds))
    process.kill()
    process.join()
    return process.exitcode == 0
