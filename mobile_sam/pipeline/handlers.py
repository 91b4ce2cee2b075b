"""Handlers of the workflow: what happens before its first job and after its last."""

import os
import sys
from typing import Any

from mobile_sam.config.load import Runs
from mobile_sam.download.files import forget_second_names
from mobile_sam.paths import RunPaths, comparable_runs, comparison_directory
from mobile_sam.pipeline.inputs import known_checkpoints
from mobile_sam.pipeline.resources import is_forced
from mobile_sam.pipeline.results_table import results_table
from mobile_sam.pipeline.settings_files import write_settings
from mobile_sam.pipeline.timestamps import check_times
from mobile_sam.system.errors import UserError
from mobile_sam.system.finished_results import FORCED


def before_jobs(workflow: Any, runs: Runs) -> None:
    """Check the times of files, and write the settings that jobs read.

    Ends the process with a message if a clock is wrong.
    """
    try:
        check_times(runs.all)
    except UserError as error:
        sys.exit(f"error: {error}")
    if is_forced(workflow.dag_settings):
        os.environ[FORCED] = "1"
    write_settings(runs)


def after_jobs(runs: Runs) -> None:
    """Print the results of the runs whose reports are there: other targets can be requested."""
    forget_second_names(known_checkpoints(runs))
    for config in runs.named:
        if (RunPaths(config).report / "summary.csv").is_file():
            print(results_table(config))
    for configs in comparable_runs(runs.named):
        page = comparison_directory(configs) / "index.html"
        if page.is_file():
            print(f"comparison: {page}")


def add_handlers_of_module(workflow: Any, runs: Runs) -> None:
    """Let a Snakefile that uses the workflow as a module call the handlers of the workflow.

    Snakemake calls only the handlers of the main Snakefile, but jobs need their settings.
    """
    if workflow.modifier.is_main_snakefile():
        return
    outer_start, outer_success = workflow._onstart, workflow._onsuccess

    def start(log: Any) -> None:
        before_jobs(workflow, runs)
        outer_start(log)

    def success(log: Any) -> None:
        after_jobs(runs)
        outer_success(log)

    workflow._onstart, workflow._onsuccess = start, success
