"""Handlers of the workflow, which run before its first job and after its last."""

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from mobile_sam.config.load import Runs
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.download.files import forget_second_names
from mobile_sam.paths import RunPaths, comparable_runs, comparison_directory
from mobile_sam.pipeline.inputs import known_checkpoints
from mobile_sam.pipeline.resources import is_forced
from mobile_sam.pipeline.results_table import results_table
from mobile_sam.pipeline.settings_files import write_settings
from mobile_sam.system.errors import UserError
from mobile_sam.system.finished_results import FORCED

_TOLERANCE = 60.0  # seconds; the clock of a network disk can differ a little


def before_jobs(workflow: Any, runs: Runs) -> None:
    """Check the times of files, and write the settings that jobs read.

    Ends the process with a message if a clock is wrong.
    """
    try:
        _check_times(runs.all)
    except UserError as error:
        sys.exit(f"error: {error}")
    if is_forced(workflow.dag_settings):
        os.environ[FORCED] = "1"
    if runs.variants:
        workflow.scheduler.keepgoing = True  # a variant that fails does not stop the others
    write_settings(runs)


def after_jobs(runs: Runs) -> None:
    """Print the results of the runs that have a report; a workflow can have other targets."""
    forget_second_names(known_checkpoints(runs))
    for config in runs.alone:
        if (RunPaths(config).report / "summary.csv").is_file():
            print(results_table(config))
    pages = {
        "comparison": [comparison_directory(configs) for configs in comparable_runs(runs.alone)],
        "variants": [RunPaths(group.config).sweep.parent / "report" for group in runs.variants],
    }
    for kind, directories in pages.items():
        for page in (directory / "index.html" for directory in directories):
            if page.is_file():
                print(f"{kind}: {page}")


def after_failure(runs: Runs) -> None:
    """Write the reports of variants from those that have results, and name the others."""
    for group in runs.variants:
        manifest = RunPaths(group.config).sweep
        if manifest.is_file():
            command = [sys.executable, "-m", "mobile_sam", "sweep", str(manifest)]
            subprocess.run(command, check=False)


def add_handlers_of_module(workflow: Any, runs: Runs) -> None:
    """Add the handlers to a Snakefile that uses this workflow as a module.

    Snakemake calls only the handlers of the main Snakefile, but the jobs need their settings.
    """
    if workflow.modifier.is_main_snakefile():
        return
    outer_start, outer_success = workflow._onstart, workflow._onsuccess
    outer_error = workflow._onerror

    def start(log: Any) -> None:
        before_jobs(workflow, runs)
        outer_start(log)

    def success(log: Any) -> None:
        after_jobs(runs)
        outer_success(log)

    def error(log: Any) -> None:
        after_failure(runs)
        outer_error(log)

    workflow._onstart, workflow._onsuccess, workflow._onerror = start, success, error


def _check_times(configs: tuple[RunConfig, ...]) -> None:
    """Raise UserError for an input of training whose modification time is in the future.

    Without this check, Snakemake would find the checkpoint older than that input after training,
    and delete it.
    """
    now = time.time()
    for config in configs:
        for path in _training_inputs(config):
            if path.is_file() and path.stat().st_mtime > now + _TOLERANCE:
                written = datetime.fromtimestamp(path.stat().st_mtime)
                raise UserError(
                    f"{path}: was written in the future ({written:%Y-%m-%d %H:%M}), so results "
                    "made from it now would seem outdated; set the clock right, or `touch` it"
                )


def _training_inputs(config: RunConfig) -> list[Path]:
    paths = RunPaths(config)
    weights = [paths.start_weights, *(teacher.teacher_weights for teacher in paths.teachers)]
    stages = [paths.checkpoint(s, kind) for s in normalise(config) for kind in ("last", "best")]
    return [paths.index, *(path for path in weights if path is not None), *stages]
