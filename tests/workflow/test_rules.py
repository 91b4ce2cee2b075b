"""Rules of the workflow: their names, their order, and the GPUs and logs that they have."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.config.load import Runs, resolve
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.rules import RuleNames
from mobile_sam.pipeline.settings_files import with_extract_jobs, write_settings
from tests.helpers.commands import ROOT, snakemake
from tests.helpers.gpu_lists import Lists, gpu_line
from tests.helpers.runs import DISTIL_ONLY, tiny_settings

Plans = Callable[..., dict[str, dict[str, str]]]
DISTILS = {
    "num_epochs": 2,
    "report_examples": 1,
    "stage_schedule": [
        {"start_epoch": 0, "end_epoch": 1, "distillation": True, "loss_weights": DISTIL_ONLY}
    ],
}


def write(path: Path, scenes: Path, **changes: Any) -> Path:
    """A run's file; its name is that of the run."""
    settings = tiny_settings(scenes, path.parent / "results", **DISTILS) | changes
    del settings["run_name"]
    path.write_text(json.dumps(settings))
    return path


def blocks(directory: Path, *arguments: str) -> dict[str, dict[str, str]]:
    """What a dry run says of each rule, by its name."""
    result = snakemake(directory, "-n", "--config", *arguments)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-2000:]
    found = re.findall(
        r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", result.stdout + result.stderr, re.M
    )
    return {name: dict(re.findall(r"^    (\w+): (.*)$", text, re.M)) for name, text in found}


def resource(rule: dict[str, str], name: str) -> str:
    return dict(pair.partition("=")[::2] for pair in rule["resources"].split(", ")).get(name, "")


def test_names_stay_readable_and_are_of_one_thing_only() -> None:
    names = RuleNames()
    plain = names("train", "x-y", "00_a")
    assert plain == names("train", "x-y", "00_a") == "train_x_y_00_a"
    others = {names("train", "x_y", "00_a"), names("train", "x", "y_00_a"), plain}
    assert len(others) == 3
    assert all(name.startswith("train_x_y_00_a") and name.isidentifier() for name in others)
    assert names("index", "d", of="p/d") != names("index", "d", of="q/d")


def test_runs_data_and_stores_of_like_names_have_rules_of_their_own(
    scenes: Path, tmp_path: Path
) -> None:
    runs = [
        write(tmp_path / "x-y.json", scenes, train_img_dir_teacher_features="d1/neck.zarr"),
        write(tmp_path / "x_y.json", scenes, train_img_dir_teacher_features="d2/neck.zarr", seed=1),
    ]
    rules = blocks(tmp_path, f"run={','.join(map(str, runs))}")
    for verb in ("train", "extract", "plan_features", "report", "validate"):
        of_verb = [name for name in rules if name.startswith(f"{verb}_")]
        assert len(of_verb) % 2 == 0, of_verb
    logs = [rule["log"] for rule in rules.values() if "log" in rule]
    assert len(set(logs)) == len(logs)


def test_runs_with_equal_start_weights_make_them_once(scenes: Path, tmp_path: Path) -> None:
    start = {"checkpoint": "shapes:2"}
    runs = [
        write(tmp_path / "a.json", scenes, **start),
        write(tmp_path / "b.json", scenes, **start, learning_rate=0.5),
        write(tmp_path / "c.json", scenes, **start, seed=1),
    ]
    rules = blocks(tmp_path, f"run={','.join(map(str, runs))}")
    made = [rule["output"] for name, rule in rules.items() if name.startswith("shapes_")]
    assert len(made) == 2
    for run in "abc":
        assert any(start in rules[f"train_{run}_00_distill"]["input"] for start in made)


def test_two_runs_on_a_public_data_set_fetch_it_once(tmp_path: Path, scenes: Path) -> None:
    places = {
        f"{split}_{key}_dir": f"data/nuclei/{split}/{part}"
        for split in ("train", "val")
        for key, part in (("img", "image"), ("mask", "mask"))
    }
    runs = [
        write(tmp_path / f"{name}.json", scenes, **places, data={"min_area": area})
        for name, area in (("a", 1), ("b", 2))
    ]
    # What is there is not looked for on the network.
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "train-hand.zip").touch()
    os.environ["MOBILE_SAM_CACHE"] = str(tmp_path / "cache")
    try:
        rules = blocks(tmp_path, f"run={','.join(map(str, runs))}")
    finally:
        del os.environ["MOBILE_SAM_CACHE"]
    assert sum(name.startswith("fetch") for name in rules) == 1
    assert sum(name.startswith("index") for name in rules) == 2
    assert (
        rules["fetch_nuclei"]["log"]
        == f"{tmp_path}/results/mobile_sam/shared/logs/fetch_nuclei.log"
    )


def test_no_rule_names_the_directory_of_results() -> None:
    """Logs follow `output_dir`."""
    for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]:
        assert "results/" not in path.read_text(), path


def test_what_training_waits_for_goes_first(scenes: Path, tmp_path: Path) -> None:
    rules = blocks(tmp_path, f"run={write(tmp_path / 'a.json', scenes)}")
    first = {name for name, rule in rules.items() if rule.get("priority") == "1"}
    beginnings = {name.split("_")[0] for name in first}
    assert beginnings == {"index", "plan", "extract", "features", "ready", "train", "export"}
    assert not any(name.startswith(tuple(beginnings)) for name in set(rules) - first)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_rules_that_load_a_model_ask_for_the_gpus_that_there_are(
    count: int, scenes: Path, tmp_path: Path, nvidia_smi: Lists
) -> None:
    nvidia_smi(*(gpu_line(number, f"GPU-{number}") for number in range(count)))
    run = write(tmp_path / "a.json", scenes, devices=3, benchmark_repeats=1)
    rules = blocks(tmp_path, f"run={run}")
    asked = {name: resource(rule, "gpu") for name, rule in rules.items()}
    several = ("train", "plan_features", "features", "ready", "export")  # the last hold them
    for name, gpus in asked.items():
        if name.startswith(several):
            assert gpus == str(min(count, 3)), name
        elif name.startswith(("extract", "validate", "cost")):
            assert gpus == str(min(count, 1)), name
        else:
            assert gpus in {"", "0"}, name
    assert sum(name.startswith("extract_") for name in rules) == max(1, count)


def test_a_user_says_how_many_gpus_jobs_share(
    scenes: Path, tmp_path: Path, nvidia_smi: Lists
) -> None:
    nvidia_smi(gpu_line(0, "GPU-1"), gpu_line(1, "GPU-2"))
    run = write(tmp_path / "a.json", scenes, devices=2)
    rules = blocks(tmp_path, f"run={run}", "--resources", "gpu=1")
    assert resource(rules["train_a_00_distill"], "gpu") == "1"
    assert sum(name.startswith("extract_") for name in rules) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_jobs_have_a_gpu_of_their_own(
    count: int, scenes: Path, tmp_path: Path, nvidia_smi: Lists
) -> None:
    nvidia_smi(*[gpu_line(0, "GPU-1"), gpu_line(1, "GPU-2")][:count])
    run = write(tmp_path / "a.json", scenes, validate_jobs=2)
    target = tmp_path / "results/mobile_sam/a/validation/start.parquet"
    result = snakemake(tmp_path, target, "--config", f"run={run}")
    assert result.returncode == 0, result.stderr[-3000:]
    logs = [
        (tmp_path / f"results/mobile_sam/a/logs/validate_start_{part}_of_2.log").read_text()
        for part in (0, 1)
    ]
    used = [name for text in logs for name in re.findall(r"GPU: (\S+)", text)]
    assert sorted(used) == (["GPU-1", "GPU-2"] if count == 2 else ["GPU-1", "GPU-1"])
    assert not any("another job" in text for text in logs)


def test_the_number_of_extraction_jobs_is_no_reason_to_extract_again(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = resolve(str(write(tmp_path / "a.json", scenes)), None, {})

    def jobs(gpus: int, remote: bool = False) -> int | None:
        return with_extract_jobs(runs, gpus, remote).named[0].extract_jobs

    assert [jobs(gpus) for gpus in (0, 1, 4)] == [1, 1, 4]
    planned: Runs = with_extract_jobs(runs, 4)
    write_settings(planned)
    assert jobs(2) == 2  # nothing is extracted yet
    assert jobs(0, remote=True) == 4  # a job of a cluster follows the workflow that submitted it
    manifest = RunPaths(planned.named[0]).features_manifest
    manifest.write_text("{}")
    assert jobs(2) == 4
    settings = json.loads(RunPaths(runs.named[0]).features_settings.read_text())
    assert settings["extract_jobs"] == 4
    monkeypatch.setattr("mobile_sam.pipeline.fingerprints._fingerprints", {})
    monkeypatch.setattr(
        "mobile_sam.pipeline.fingerprints.fingerprint", lambda config: "of other images"
    )
    assert jobs(2) == 2
