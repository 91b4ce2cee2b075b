"""What jobs ask a cluster for: by the beginning of a rule's name, and for several processes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mobile_sam.config import RunConfig

Launcher = Callable[[Any, int], str]


def ask_by_beginning(
    rules: Iterable[Any],
    resources: Mapping[str, Mapping[str, Any]],
    threads: Mapping[str, Any],
) -> None:
    """Give rules what Snakemake's `set-resources` and `set-threads` say of their beginnings.

    Snakemake looks for whole names, and ours are generated: `train` stands for
    `train_my_run_00_distill` too. A longer beginning wins, and `{devices}` becomes the number of
    devices of the rule.
    """
    for rule in rules:
        count = str(rule.resources["devices"].value if "devices" in rule.resources else 1)
        for asked in _of(rule.name, resources):
            rule.resources.update(asked)
            for name, resource in asked.items():
                if isinstance(resource.raw, str) and "{devices}" in resource.raw:
                    text = resource.raw.strip("'\"").replace("{devices}", count)
                    rule.resources.update({name: int(text) if text.isdecimal() else text})
        for number in _of(rule.name, threads):
            rule.resources.update({"_cores": getattr(number, "value", number)})


def _of(name: str, asked: Mapping[str, Any]) -> list[Any]:
    """What is asked for by beginnings of `name`, the longest last."""
    return [asked[key] for key in sorted(asked, key=len) if f"{name}_".startswith(f"{key}_")]


def distributed(config: RunConfig) -> dict[str, int | str | Launcher]:
    """Resources of a training: its `devices`, and over several nodes SLURM's srun to start it.

    On one node the first process starts the others, and the launcher is empty. The names that
    are not ours are those of Snakemake's SLURM executor.
    """
    devices, nodes = config.devices, config.num_nodes
    if nodes == 1:
        return {"devices": devices, "launcher": ""}

    def launcher(wildcards: Any, threads: int) -> str:
        # A step asks for its processors itself since SLURM 22.05.
        tasks = f"--nodes={nodes} --ntasks-per-node={devices} --cpus-per-task={threads}"
        return f"srun {tasks} --kill-on-bad-exit=0"

    # The executor wants one of both; a single task on each node is only known to `tasks`.
    tasks = {"tasks_per_node": devices} if devices > 1 else {"tasks": nodes}
    return {
        "devices": devices,
        "launcher": launcher,
        "mpi": "srun",
        "nodes": nodes,
        **tasks,
        "tasks_per_gpu": 0,  # SLURM refuses it beside a number of tasks
    }
