# Fine-tune and distil MobileSAM in stages:
#
#     snakemake --cores all --config run=distill_then_finetune
#
# Settings are validated here, before any rule; each rule is one `python -m mobile_sam COMMAND`.
import os
import sys
from functools import partial

from snakemake.utils import min_version

min_version("9.17")

from mobile_sam.config.checkpoints import (
    BOX_FILLED,
    checkpoint_names,
    exported_checkpoint,
)
from mobile_sam.config.load import DEFAULT_OVERLAY, DEFAULT_RUN, resolve
from mobile_sam.config.schedule import needs_features, normalise, stage_at
from mobile_sam.paths import (
    RunPaths,
    comparable_runs,
    extra_checkpoints,
    comparison_directory,
    halving_file,
)
from mobile_sam.pipeline.environment import IMAGE, job_environment
from mobile_sam.pipeline.fingerprints import (
    cost_settings,
    fingerprint_once,
    validation_settings,
)
from mobile_sam.pipeline.handlers import (
    add_handlers_of_module,
    after_failure,
    after_jobs,
    before_jobs,
)
from mobile_sam.pipeline.inputs import check_inputs, fetched_files
from mobile_sam.pipeline.resources import (
    is_local,
    offer_gpus,
    remove_gpus,
    set_by_prefix,
    threads_of_job,
    training_resources,
)
from mobile_sam.pipeline.rules import (
    RuleNames,
    checkpoint_inputs,
    cost_variants,
    dataset_inputs,
    halvings,
    report_inputs,
    rung_inputs,
    rung_trainings,
    stage_features,
    stage_inputs,
    stages_of_runs,
    stages_trained_whole,
    start_stages,
    sweep_inputs,
    teacher_inputs,
    variant_checkpoints,
    with_detections,
)
from mobile_sam.pipeline.settings_files import with_extract_jobs
from mobile_sam.pipeline.shared_stages import adopt_stages
from mobile_sam.pipeline.sweeps import read_halving
from mobile_sam.report.outputs import comparison_pictures, report_pictures
from mobile_sam.system.errors import UserError
from mobile_sam.system.machine_errors import machine_fault, path_problem

overrides = dict(config)
named = overrides.pop("run", None)
# Without a run, `snakemake` runs the whole workflow on synthetic data (the demo).
overlay = overrides.pop("overlay", None if named else DEFAULT_OVERLAY)

try:
    RUNS = resolve(DEFAULT_RUN if named is None else named, overlay, overrides)
    if not workflow.remote_exec:
        check_inputs(RUNS)
        adopt_stages(RUNS.all)
    gpus = offer_gpus(workflow)
    RUNS = with_extract_jobs(RUNS, gpus, remote=workflow.remote_exec)
except (UserError, OSError) as error:
    sys.exit(f"error: {machine_fault(error) or path_problem(error) or error}")

os.environ.update(job_environment(os.environ))

PATHS = {settings.run_name: RunPaths(settings) for settings in RUNS.all}
rule_name = RuleNames()
threads_each = threads_of_job(workflow.resource_settings.cores, gpus)
# Jobs that training waits for have priority over validation. A short job before training reserves
# cores and GPUs for it; otherwise validation would take them, and keep them for longer.
urgent = 1
threads_held = threads_each if is_local(workflow) else 1
threads_alone = workflow.resource_settings.cores or 8


# For `--sdm apptainer`; with `--sdm conda` each rule uses workflow/envs/mobile_sam.yml.
container: IMAGE


localrules:
    all,


rule all:
    input:
        reports=[PATHS[run.run_name].report / "index.html" for run in RUNS.alone],
        sweeps=[
            RunPaths(group.config).sweep.parent / "report" / "index.html"
            for group in RUNS.variants
        ],
        weights=lambda wildcards: finished_variants(wildcards),
        decisions=halvings(RUNS),
        comparisons=[
            comparison_directory(runs) / "index.html"
            for runs in comparable_runs(RUNS.alone)
        ],
    message:
        "Finish the reports and weights of all runs"


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/report.smk"


requested = workflow.resource_settings
set_by_prefix(
    workflow.rules, requested.overwrite_resources, requested.overwrite_threads
)
if workflow.remote_exec:
    remove_gpus(workflow.rules)


onstart:
    before_jobs(workflow, RUNS)


onsuccess:
    after_jobs(RUNS)


onerror:
    after_failure(RUNS)


add_handlers_of_module(workflow, RUNS)
