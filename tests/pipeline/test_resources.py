"""What jobs ask a cluster for, with the profile that ships, and without a cluster."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snakemake.cli import parse_set_resources
from snakemake.resources import Resources

from mobile_sam.config.parsing import parse_config
from mobile_sam.pipeline.resources import set_by_prefix, training_resources
from tests.helpers.commands import ROOT, snakemake

PROFILE = ("--workflow-profile", ROOT / "profiles" / "slurm")


def rule(name: str, **resources: Any) -> SimpleNamespace:
    return SimpleNamespace(name=name, resources=Resources.from_mapping(resources))


def test_the_longest_beginning_of_a_name_wins() -> None:
    rules = [rule("train_a_00"), rule("train_b_00"), rule("trained_c"), rule("index_a")]
    asked = ("train_a:mem_mb=7", "train:mem_mb=5", "train:runtime=60", "train_b_00:mem_mb=9")
    set_by_prefix(rules, parse_set_resources(list(asked)), {"train": 3, "index_a": 2})
    found = [{k: v.value for k, v in rule.resources.items()} for rule in rules]
    assert found == [
        {"mem_mb": 7, "runtime": 60, "_cores": 3},
        {"mem_mb": 9, "runtime": 60, "_cores": 3},
        {},
        {"_cores": 2},
    ]


def test_devices_are_those_of_the_rule() -> None:
    rules = [rule("train_a", devices=4), rule("extract_a")]
    asked = parse_set_resources(["train:gres='gpu:a100:{devices}'", "extract:gpu={devices}"])
    set_by_prefix(rules, asked, {})
    assert rules[0].resources["gres"].value == "gpu:a100:4"
    assert rules[1].resources["gpu"].value == 1


def test_gpus_are_asked_for_once() -> None:
    rules = [rule("train_a", devices=2, gpu=2), rule("validate_a", gpu=1), rule("cost_a", gpu=1)]
    asked = parse_set_resources(["train:gres=gpu:{devices}", "cost:gpu=0"])
    set_by_prefix(rules, asked, {})
    assert [rule.resources["gpu"].value for rule in rules] == [None, 1, 0]


def planned(directory: Path, *settings: str) -> dict[str, dict[str, str]]:
    """Resources by rule, of a dry run with the profile that ships."""
    run = ("--config", "run=distill_then_finetune", "overlay=tiny", *settings)
    result = snakemake(directory, "-n", *PROFILE, *run)
    assert result.returncode == 0, result.stderr[-3000:]
    blocks = re.findall(
        r"^(?:local)?rule (\w+):.*?^    resources: (.*?)$",
        result.stdout + result.stderr,
        re.M | re.S,
    )
    return {
        name: dict(pair.partition("=")[::2] for pair in resources.split(", "))
        for name, resources in blocks
    }


def test_the_profile_gives_each_rule_its_resources(tmp_path: Path) -> None:
    rules = planned(tmp_path, "devices=2", "benchmark_repeats=1")
    train = rules["train_distill_then_finetune_tiny_01_finetune"]
    assert (train["slurm_partition"], train["gres"], train["runtime"]) == ("gpu", "gpu:2", "1440")
    assert rules["train_demo_teacher_tiny_00_finetune"]["gres"] == "gpu:1"
    report = rules["report_distill_then_finetune_tiny"]
    assert (report["slurm_partition"], report["runtime"]) == ("cpu", "120")
    assert "gres" not in report
    for name, resources in rules.items():
        assert resources["slurm_extra"] == "--signal=TERM@120", name
        wants_gpu = name.startswith(("train_", "extract_", "validate_", "cost_"))
        assert ("gres" in resources) == wants_gpu, name
        assert resources.get("gpu", "0") == "0", name  # `gres` asks for it


def test_over_several_nodes_srun_starts_the_processes(tmp_path: Path) -> None:
    train = planned(tmp_path, "devices=2", "num_nodes=2")[
        "train_distill_then_finetune_tiny_01_finetune"
    ]
    assert (train["nodes"], train["tasks_per_node"], train["mpi"]) == ("2", "2", "srun")
    assert train["launcher"].startswith("srun --nodes=2 --ntasks-per-node=2 --cpus-per-task=")
    assert train["gres"] == "gpu:2"


def test_one_process_on_each_of_several_nodes() -> None:
    resources = training_resources(parse_config({"run_name": "x", "num_nodes": 3}, "test"))
    assert (resources["nodes"], resources["tasks"]) == (3, 3)
    assert "tasks_per_node" not in resources


def test_one_node_needs_no_launcher() -> None:
    resources = training_resources(parse_config({"run_name": "x", "devices": 4}, "test"))
    assert resources == {"devices": 4, "gpu": 4, "launcher": ""}
