"""Training in a process of its own, which may be ended on its way."""

import os
import signal
import subprocess
import sys
import time

from mobile_sam.config import RunConfig
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import normalise
from mobile_sam.training import checkpoint


def start(config: RunConfig, *arguments: str) -> subprocess.Popen[str]:
    """Begin `train` with the settings of a run."""
    path = RunPaths(config).settings
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json(exclude={"schema_file"}))
    return subprocess.Popen(
        [sys.executable, "-m", "mobile_sam", "train", "--config", str(path), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def train(config: RunConfig, *arguments: str) -> str:
    """Run `train` to its end; returns what it logged."""
    process = start(config, *arguments)
    _, log = process.communicate()
    assert process.returncode == 0, log
    return log


def end_in_last_stage(config: RunConfig, number: signal.Signals, epoch: int) -> None:
    """Run `train`, and send it a signal once the last stage has saved `epoch` or a later one."""
    stage = normalise(config)[-1]
    resume = RunPaths(config).state(stage) / "resume.pt"
    process = start(config)
    deadline = time.monotonic() + 120
    while not (resume.is_file() and checkpoint.load(resume)["progress"]["epoch"] >= epoch):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    assert not RunPaths(config).checkpoint(stage).is_file()
