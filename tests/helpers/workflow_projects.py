"""A project whose workflow runs in seconds."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from mobile_sam.data.synthetic import write_scenes
from tests.helpers.commands import ROOT, snakemake
from tests.helpers.runs import DISTIL_ONLY, tiny_settings

# Settings of runs with variants: each validates one prompt, so that the test is short.
VARIANTS: dict[str, Any] = {"protocols": ["box"], "unlabelled_img_dir": None, "replicates": 2}


class Project:
    """A run of two stages on data of its own, two images of it without masks."""

    def __init__(self, directory: Path, scenes: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.data = Path(shutil.copytree(scenes, directory / "data"))
        self.file = directory / "my.json"
        self.settings = tiny_settings(self.data, directory / "results", num_epochs=2)
        self.settings |= {"run_name": "my", "report_examples": 1}
        write_scenes(self.data / "more", 2, 64, seed=7)
        self.settings["unlabelled_img_dir"] = str(self.data / "more" / "image")
        self.settings["stage_schedule"] = [
            {"start_epoch": 0, "end_epoch": 1, "distillation": True, "loss_weights": DISTIL_ONLY},
            {"start_epoch": 1, "end_epoch": 2, "distillation": False},
        ]
        self.write(self.settings)

    def write(self, settings: dict[str, Any], **style: Any) -> None:
        self.file.write_text(json.dumps(settings, **style))

    def would_run(self, *arguments: str) -> set[str]:
        """Names of the rules in a dry run, without the run's name and without `all`."""
        result = snakemake(self.directory, "-n", "--config", f"run={self.file}", *arguments)
        assert result.returncode == 0, result.stderr
        names = set(re.findall(r"^(?:local)?rule (\w+):", result.stdout + result.stderr, re.M))
        return {name.replace("_my_", "_") for name in names} - {"all"}

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begin the workflow in real processes; its output goes to a file."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        # One thread per job, as in the forks of `snakemake`.
        command += ["--directory", str(self.directory), "--cores", "2", "--max-threads", "1"]
        with (self.directory / "snakemake.log").open("w") as output:
            return subprocess.Popen(
                [*command, "--config", f"run={self.file}", *arguments],
                cwd=self.directory,
                stdout=output,
                stderr=output,
            )

    def kill(self, running: subprocess.Popen[bytes], *arguments: str) -> None:
        """Kill a workflow with all of its jobs, and unlock its directory."""
        assert running.poll() is None
        for process in [*psutil.Process(running.pid).children(recursive=True), running]:
            process.kill()
        running.wait()
        unlocked = snakemake(self.directory, "--unlock", "--config", f"run={self.file}", *arguments)
        assert unlocked.returncode == 0, unlocked.stderr

    def trainers(self, running: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """Return the processes that train for what `start` began."""
        children = psutil.Process(running.pid).children(recursive=True)
        return [process for process in children if "train" in _words(process)]

    def run(self, *arguments: str) -> None:
        result = snakemake(self.directory, "--config", f"run={self.file}", *arguments)
        assert result.returncode == 0, result.stderr[-3000:]


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def changed(settings: dict[str, Any], stage: int, **changes: Any) -> dict[str, Any]:
    stages = [dict(entry) for entry in settings["stage_schedule"]]
    stages[stage] |= changes
    return settings | {"stage_schedule": stages}


def planned(project: Project, *arguments: str) -> list[str]:
    """The trainings that a dry run lists."""
    said = snakemake(project.directory, "-n", "--config", f"run={project.file}", *arguments)
    assert said.returncode == 0, said.stderr
    names = re.findall(r"^rule (train_\w+):", said.stdout + said.stderr, re.M)
    return sorted(name.removeprefix("train_my_") for name in names)
