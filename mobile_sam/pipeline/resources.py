"""Resources of jobs: threads, GPUs of this machine, and resources of a cluster by rule name."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mobile_sam.config.run import RunConfig
from mobile_sam.system.gpus import OFFERED, VISIBLE, visible_gpus

Launcher = Callable[[Any, int], str]
_MOST_THREADS = 8  # small models gain nothing from more


def is_local(workflow: Any) -> bool:
    """Return whether the jobs of a workflow run on this machine."""
    # A dry run with the profile of a cluster counts as running on the cluster.
    for_cluster = workflow.dryrun and workflow.resource_settings.nodes is not None
    return workflow.local_exec and not workflow.remote_exec and not for_cluster


def is_forced(settings: Any) -> bool:
    """Return whether the user forces results to be made again, as with `--forcerun`.

    settings: DAG settings of the workflow, which are known when it starts.
    """
    return bool(settings.forcerun or settings.forceall or settings.forcetargets)


def offer_gpus(workflow: Any) -> int:
    """Share the GPUs of this machine among jobs, and return their number.

    The resource `gpu` limits the number of jobs at a time: `--resources gpu=N`, or the number of
    visible GPUs. Each job takes its own GPU (`take_gpus`). On a cluster the scheduler assigns
    GPUs; nothing is limited, and the number is 0.
    """
    os.environ.pop(OFFERED, None)
    if not is_local(workflow):
        return 0
    names = visible_gpus()
    if "gpu" in workflow.global_resources:
        count = int(workflow.global_resources["gpu"].value)
        names = names or tuple(map(str, range(count)))
        if count == 0:
            os.environ[VISIBLE] = ""
    else:
        count = len(names)
        workflow.register_resource("gpu", count)
    os.environ[OFFERED] = ",".join(names)
    return count


def threads_of_job(cores: int | None, gpus: int) -> int:
    """Return the threads of a job with a model, such that all GPUs can have a job at a time."""
    if not cores or not gpus:
        return _MOST_THREADS
    return max(1, min(_MOST_THREADS, cores // gpus))


def set_by_prefix(
    rules: Iterable[Any],
    resources: Mapping[str, Mapping[str, Any]],
    threads: Mapping[str, Any],
) -> None:
    """Apply Snakemake's `set-resources` and `set-threads` to rules by the prefix of their names.

    Snakemake matches whole names, but names of rules are generated here: `train` also applies to
    `train_my_run_00_distill`. The longest prefix wins, and `{devices}` becomes the number of
    devices of the rule. GPUs requested as `gres` replace the rule's `gpu`, which would request them
    twice.
    """
    for rule in rules:
        count = str(rule.resources["devices"].value if "devices" in rule.resources else 1)
        for requested in _by_prefix(rule.name, resources):
            rule.resources.update(requested)
            for name, resource in requested.items():
                if isinstance(resource.raw, str) and "{devices}" in resource.raw:
                    text = resource.raw.strip("'\"").replace("{devices}", count)
                    rule.resources.update({name: int(text) if text.isdecimal() else text})
        if "gres" in rule.resources and "gpu" in str(rule.resources["gres"].raw):
            rule.resources.update({"gpu": None})
        for number in _by_prefix(rule.name, threads):
            rule.resources.update({"_cores": getattr(number, "value", number)})


def remove_gpus(rules: Iterable[Any]) -> None:
    """Remove the resource `gpu` from rules: a step within a job has the GPUs of the job."""
    for rule in rules:
        rule.resources.update({"gpu": None})


def _by_prefix(name: str, requested: Mapping[str, Any]) -> list[Any]:
    """Return the values whose keys are prefixes of `name`, the longest last."""
    return [
        requested[key] for key in sorted(requested, key=len) if f"{name}_".startswith(f"{key}_")
    ]


def training_resources(config: RunConfig) -> dict[str, int | str | Launcher]:
    """Return the resources of a training job; over several nodes, SLURM's srun starts it.

    On one node the first process starts the others, and the launcher is empty. Names other than
    `devices`, `gpu` and `launcher` are those of Snakemake's SLURM executor.
    """
    devices, nodes = config.devices, config.num_nodes
    if nodes == 1:
        return {"devices": devices, "gpu": devices, "launcher": ""}

    def launcher(wildcards: Any, threads: int) -> str:
        # Since SLURM 22.05, a step does not inherit the number of processors from its job.
        tasks = f"--nodes={nodes} --ntasks-per-node={devices} --cpus-per-task={threads}"
        return f"srun {tasks} --kill-on-bad-exit=0"

    # The executor accepts one of the two; only `tasks` can express a single task per node.
    tasks = {"tasks_per_node": devices} if devices > 1 else {"tasks": nodes}
    return {
        "devices": devices,
        "gpu": devices * nodes,
        "launcher": launcher,
        "mpi": "srun",
        "nodes": nodes,
        **tasks,
        "tasks_per_gpu": 0,  # SLURM refuses another value together with a number of tasks
    }
