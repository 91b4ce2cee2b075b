"""A finished run that nobody disturbed, its copies, and what may not differ between them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pandas as pd

from mobile_sam.models.safe_load import load_state_file
from mobile_sam.training import checkpoint
from tests.helpers.commands import ROOT, RULE_BLOCKS
from tests.helpers.disturbed_commands import Ended, Running
from tests.helpers.equality import equal
from tests.helpers.runs import DISTIL_ONLY, tiny_settings

# One thread, so that sums are made in one order.
_COMMON = ("--snakefile", str(ROOT / "Snakefile"), "--cores", "1")
SETTINGS: dict[str, Any] = {
    "run_name": "my",
    "num_epochs": 4,
    "stage_schedule": [
        {"start_epoch": 0, "end_epoch": 2, "distillation": True, "loss_weights": DISTIL_ONLY},
        {"start_epoch": 2, "end_epoch": 4, "distillation": False},
    ],
    "save_every_minutes": 0,
    "benchmark_repeats": 0,
    "report_examples": 1,
}
# What each verb of the run writes, below `results/mobile_sam`, in the order of the verbs.
OUTPUTS = {
    "index": ("shared/*/index.*",),
    "extract": ("shared/*/features",),
    "train": tuple(f"shared/stages/*/{n}" for n in ("*.pt", "metrics.csv", "state")),
    "export": ("my/weights.pt", "shared/stages/*/state/finished"),  # which it may remove
    "validate": ("my/validation", "my/state/validation"),
    "report": ("my/report",),
}
# Of times, which no two runs share.
_TIMES = re.compile(r"(stages|times|epochs)\.csv|index\.(kept\..*|hashes)\.npz")


class Project:
    """A run of two stages in a directory of its own; its data lie elsewhere."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.results = directory / "results" / "mobile_sam"
        self.run = self.results / "my"

    def stage(self, name: str) -> Path:
        """The directory of a stage, `NN_name`."""
        names = json.loads((self.run / "stages.json").read_text())
        return self.results / "shared" / "stages" / names[name]

    def write(self, scenes: Path, **changes: Any) -> None:
        self.directory.mkdir(exist_ok=True)
        settings = tiny_settings(scenes, Path("results"), **SETTINGS, **changes)
        (self.directory / "my.json").write_text(json.dumps(settings))

    def copy(self, target: Path, without: str | None = None) -> "Project":
        """The same project elsewhere, times of files included, without the outputs of a verb."""
        shutil.copytree(self.directory, target, symlinks=True)
        project = Project(target)
        if without is not None:
            project.remove(without)
        return project

    def remove(self, verb: str) -> None:
        for path in self.of_verb(verb):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def of_verb(self, verb: str) -> list[Path]:
        return [path for pattern in OUTPUTS[verb] for path in self.results.glob(pattern)]

    def start(self, verb: str, *arguments: str, **how: Any) -> Running:
        return Running(self.directory, verb, "--config", "my.json", *arguments, **how)

    def verb(self, verb: str, *arguments: str, **how: Any) -> Ended:
        return self.start(verb, *arguments, **how).wait()

    def finish(self, verb: str) -> None:
        """The same command, undisturbed."""
        ended = self.verb(verb)
        assert ended.status == 0, ended.output

    def start_snakemake(
        self, *arguments: str, environment: dict[str, str] | None = None, **config: str
    ) -> subprocess.Popen[str]:
        """Begin the workflow, in a session of its own."""
        settings = [f"{key}={value}" for key, value in {"run": "my.json", **config}.items()]
        return subprocess.Popen(
            [
                *(sys.executable, str(RULE_BLOCKS), *_COMMON, *arguments),
                *("--config", *settings),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )

    def snakemake(self, *arguments: str, **config: str) -> Ended:
        running = self.start_snakemake(*arguments, **config)
        output, _ = running.communicate()
        return Ended(running.returncode, output)

    def finish_workflow(self) -> str:
        ended = self.snakemake()
        assert ended.status == 0, ended.output[-3000:]
        return ended.output

    def would_run(self) -> set[str]:
        ended = self.snakemake("-n")
        assert ended.status == 0, ended.output
        rules = re.findall(r"^(?:local)?rule (\w+):", ended.output, re.M)
        return {name.replace("_my_", "_") for name in rules} - {"all"}

    def files(self, *but: str) -> dict[str, tuple[int, str]]:
        """Time and digest of each result, but for those of some verbs, logs and locks."""
        left, hidden = {path for verb in but for path in self.of_verb(verb)}, self.unfinished()
        return {
            str(path.relative_to(self.results)): (path.stat().st_mtime_ns, _digest(path))
            for path in self.results.rglob("*")
            if path.is_file()
            and not left.intersection([path, *path.parents])
            and not {"logs", "benchmarks", "tensorboard"}.intersection(path.parts)
            and path.name not in {"train.log", "train.tsv"}
            and not path.name.endswith("lock")
            and str(path.relative_to(self.results)) not in hidden
        }

    def differing(self, other: "Project", *verbs: str) -> list[str]:
        """Final results of verbs (of all) that are here, and are not what they are in `other`."""
        found = []
        for verb in verbs or OUTPUTS:
            for path in sorted(self._final(verb)):
                name = path.relative_to(self.results)
                if not _same(path, other.results / name):
                    found.append(str(name))
        return found

    def missing(self, other: "Project", *verbs: str) -> list[str]:
        """Final results of verbs (of all) that are in `other` and not here."""
        return [
            str(path.relative_to(other.results))
            for verb in verbs or OUTPUTS
            for path in sorted(other._final(verb))
            if not (self.results / path.relative_to(other.results)).is_file()
        ]

    def unfinished(self) -> list[str]:
        """Files on their way to a final name, which have hidden names or lie below one."""
        found = []
        for path in self.results.rglob("*"):
            parts = path.relative_to(self.results).parts
            if any(part.startswith(".") for part in parts) and not path.name.endswith(".lock"):
                found.append("/".join(parts))
        return found

    def _final(self, verb: str) -> list[Path]:
        """Files under final names: neither hidden, nor of times, nor a state to resume from."""
        found = []
        for top in self.of_verb(verb):
            for path in [top] if top.is_file() else top.rglob("*"):
                parts = path.relative_to(self.results).parts
                hidden = any(part.startswith(".") for part in parts)
                if path.is_file() and not hidden and not {"state"}.intersection(parts):
                    found.append(path)
        # Written by the workflow, or about what an extraction still had to compute.
        passing = (".settings.json", ".jobs.json", ".plan.json")
        ours = [path for path in found if not path.name.endswith(passing)]
        return [path for path in ours if not _TIMES.fullmatch(path.name)]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _same(path: Path, other: Path) -> bool:
    if not other.is_file():
        return False
    readers: dict[str, Callable[[Path], object]]
    readers = {"weights.pt": load_state_file, "metrics.csv": _metrics, "index.html": _untimed}
    readers[".pt"] = _checkpoint
    read = readers.get(path.name) or readers.get(path.suffix, Path.read_bytes)
    if path.name == "zarr.json" and path.parent.suffix == ".zarr":
        read = _without_details
    return equal(read(path), read(other))


def _checkpoint(path: Path) -> dict[str, Any]:
    content = checkpoint.load(path)
    del content["provenance"]["commit"]  # it may be made between two tests
    return content


def _metrics(path: Path) -> dict[Hashable, Any]:
    return pd.read_csv(path).drop(columns=["seconds", "images_per_s"]).to_dict()


def _untimed(page: Path) -> str:
    """The page without its sections about training and about how it was made."""
    text, count = re.subn(
        r'<section id="(training|origin)".*?</section>', "", page.read_text(), flags=re.S
    )
    assert count == 2
    return text


def _without_details(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    for name in ("used_by", "precision"):  # which a store without features does not have yet
        content["attributes"].pop(name, None)
    return content


Copy = Callable[..., Project]
