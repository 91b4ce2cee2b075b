# Fine-tune and distil MobileSAM in stages:
#
#     snakemake --cores all --config run=distill_then_finetune
#
# Settings are validated here, before any rule; each rule is one `python -m mobile_sam VERB`.
import os
import sys

sys.path.insert(0, workflow.basedir)

from mobile_sam.cluster import ask_by_beginning, distributed
from mobile_sam.config import UserError
from mobile_sam.datasets import known_dataset
from mobile_sam.fetch import checkpoint_path
from mobile_sam.layout import (
    BOX_FILLED,
    RunPaths,
    comparable,
    compared,
    comparison,
    exported,
    needs_features,
    trained,
    validated,
)
from mobile_sam.plan import (
    check_inputs,
    comparison_pictures,
    cost_settings,
    fingerprint,
    known_checkpoints,
    report_pictures,
    results_table,
    rule_name,
    validation_settings,
    write_settings,
)
from mobile_sam.runs import DEFAULT_OVERLAY, DEFAULT_RUN, resolve
from mobile_sam.schedule import canonical, normalise
from mobile_sam.teachers import named_teachers
from mobile_sam.times import check_times

overrides = dict(config)
named = overrides.pop("run", None)
# A bare `snakemake` tries the whole chain on data that it makes itself.
overlay = overrides.pop("overlay", None if named else DEFAULT_OVERLAY)

try:
    RUNS = resolve(str(named or DEFAULT_RUN), overlay, overrides)
    if not workflow.remote_exec:
        check_inputs(RUNS)
except UserError as error:
    sys.exit(f"error: {error}")

# Jobs use the Python that runs Snakemake, and end when Snakemake is killed.
os.environ["PATH"] = (
    f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
)
os.environ["MOBILE_SAM_JOB"] = "1"

PATHS = {settings.run_name: RunPaths(settings) for settings in RUNS.all}


localrules:
    all,


rule all:
    input:
        [PATHS[settings.run_name].report / "index.html" for settings in RUNS.named],
        [PATHS[settings.run_name].weights for settings in RUNS.named],
        [comparison(configs) / "index.html" for configs in comparable(RUNS.named)],


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/report.smk"


asked = workflow.resource_settings
ask_by_beginning(workflow.rules, asked.overwrite_resources, asked.overwrite_threads)


onstart:
    try:
        check_times(RUNS.all)
    except UserError as error:
        sys.exit(f"error: {error}")
    write_settings(RUNS)


onsuccess:
    # Other targets than `all` may be asked for.
    for settings in RUNS.named:
        if (PATHS[settings.run_name].report / "summary.csv").is_file():
            print(results_table(settings))
    for configs in comparable(RUNS.named):
        if (comparison(configs) / "index.html").is_file():
            print(f"comparison: {comparison(configs) / 'index.html'}")
