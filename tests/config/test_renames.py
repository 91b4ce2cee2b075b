"""Old names of settings are read, with a warning, and digests of results keep them."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.config import renames
from mobile_sam.config.load import load_settings, resolve
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.renames import RENAMED
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import canonical, normalise
from mobile_sam.pipeline.fingerprints import cost_settings
from mobile_sam.system.errors import ConfigError
from tests.helpers.commands import ROOT
from tests.helpers.runs import tiny_settings

ANSWERS = {"use_distill": True, "prompt_rounds": 2, "distill_losses": {"mask_bce": 1.0}}
TEACHER = {"checkpoint": "random", "model_type": "tiny_teacher_vit"}
# Each old name with a value, and other settings that it needs.
GIVEN: dict[str, tuple[Any, dict[str, Any]]] = {
    "clicks": ("teacher", ANSWERS),
    "stage_schedule.clicks": ("teacher", ANSWERS),
    "teacher": ("online", {}),
    "prompts_per_pass": (7, {}),
    "cost_repeats": (3, {}),
    "more_teachers": ([TEACHER], {}),
    "data.version": ("2", {}),
}


@pytest.fixture(autouse=True)
def _warn_again() -> None:
    renames._warn.cache_clear()


def with_key(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Settings with one more key, in a part or in an entry of the schedule where its name says."""
    parent, _, name = key.rpartition(".")
    if parent == "stage_schedule":
        entry = {"start_epoch": 0, "end_epoch": 1, name: value}
        return settings | {parent: [entry]}
    return settings | ({parent: {name: value}} if parent else {name: value})


def test_every_renamed_key_is_tested() -> None:
    assert set(GIVEN) == set(RENAMED)


@pytest.mark.parametrize("old", GIVEN)
def test_an_old_name_is_read_with_one_warning_that_names_the_new_one(
    old: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value, needed = GIVEN[old]
    settings = tiny_settings(ROOT, tmp_path, **needed)
    path = tmp_path / "my_run.json"
    path.write_text(json.dumps(with_key(settings, old, value)))
    config = resolve(str(path), None, {}).named[0]
    assert caplog.text.count("some settings have new names") == 1
    assert f"{path}: some settings have new names: {old} is now {RENAMED[old]};" in caplog.text
    path.write_text(json.dumps(with_key(settings, RENAMED[old], value)))
    caplog.clear()
    assert resolve(str(path), None, {}).named[0] == config
    assert not caplog.text


@pytest.mark.parametrize("old", GIVEN)
def test_an_old_name_on_the_command_line_wins_over_the_file(
    old: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value, needed = GIVEN[old]
    path = tmp_path / "my_run.json"
    path.write_text(json.dumps(tiny_settings(ROOT, tmp_path, **needed)))
    expected = resolve(str(path), None, with_key({}, RENAMED[old], value)).named[0]
    given = {key: json.dumps(part) for key, part in with_key({}, old, value).items()}
    assert resolve(str(path), None, given).named[0] == expected
    assert f"--config: some settings have new names: {old} is now {RENAMED[old]}" in caplog.text


@pytest.mark.parametrize("old", GIVEN)
def test_both_names_of_a_setting_are_an_error(old: str, tmp_path: Path) -> None:
    value, needed = GIVEN[old]
    settings = with_key(tiny_settings(ROOT, tmp_path, **needed), old, value)
    new, parent = RENAMED[old].rpartition(".")[2], old.rpartition(".")[0]
    part = settings[parent] if parent else settings
    (part[0] if isinstance(part, list) else part)[new] = value
    with pytest.raises(ConfigError, match=rf"my\.json: .* is the old name of .*{new}, and both"):
        parse_config(settings, "my.json")


def test_a_run_json_of_before_is_read(tmp_path: Path) -> None:
    changes = {"data": {"revision": "2"}, "extra_teachers": [TEACHER], "warmup_fraction": 0.2}
    schedule = [{"start_epoch": 0, "end_epoch": 1, "click_target": "teacher"}]
    settings = tiny_settings(ROOT, tmp_path, stage_schedule=schedule, **ANSWERS, **changes)
    config = parse_config(settings, "test")
    content = renames.with_old_names(config.model_dump(mode="json", exclude={"schema_file"}))
    content["data"] = renames.with_old_names(content["data"])
    content["stage_schedule"] = [renames.with_old_names(e) for e in content["stage_schedule"]]
    assert content["warmup_steps"] == 0.2
    assert not set(RENAMED.values()) & {*content, *(f"data.{key}" for key in content["data"])}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    assert load_settings(path) == config


def test_a_share_as_warmup_steps_is_the_warmup_fraction(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = parse_config({"run_name": "x", "warmup_steps": 0.25}, "my.json")
    assert (config.warmup_steps, config.warmup_fraction) == (None, 0.25)
    assert "my.json: some settings have new names: warmup_steps below 1 is now" in caplog.text
    with pytest.raises(ConfigError, match="warmup_steps is the old name of warmup_fraction"):
        parse_config({"run_name": "x", "warmup_steps": 0.25, "warmup_fraction": 0.1}, "my.json")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 8), ({"warmup_steps": 30}, 30), ({"warmup_fraction": 0.5}, 50), ({"warmup_steps": 0}, 0)],
)
def test_the_warm_up_is_counted_in_steps(settings: dict[str, Any], expected: int) -> None:
    config = parse_config({"run_name": "x", **settings}, "my.json")
    assert config.steps_of_warmup(100) == expected
    again = parse_config(config.model_dump(mode="json", exclude={"schema_file"}), "run.json")
    assert again == config


def test_steps_and_fraction_of_the_warm_up_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "my_run.json"
    path.write_text(json.dumps(tiny_settings(ROOT, tmp_path, warmup_steps=5)))
    config = resolve(str(path), None, {"warmup_fraction": 0.5}).named[0]
    assert (config.warmup_steps, config.warmup_fraction) == (None, 0.5)
    for value in (5, None):
        given = {"run_name": "x", "warmup_steps": value, "warmup_fraction": value and 0.5}
        with pytest.raises(ConfigError, match="set one of them, and the other one to null"):
            parse_config(given, "my.json")


def settings_of(config: RunConfig) -> dict[str, Any]:
    return json.loads(canonical(config, normalise(config)[0]))


def test_digests_keep_the_names_of_before(tmp_path: Path) -> None:
    """Otherwise finished stages would be trained once more."""
    given = tiny_settings(ROOT, tmp_path, **ANSWERS, click_target="teacher", warmup_steps=3)
    config = parse_config(given, "test")
    settings = settings_of(config)
    assert settings["warmup_steps"] == 3
    assert json.dumps(settings["warmup_steps"]) == "3.0"  # it was a float
    assert settings["prompts_per_pass"] == 32
    assert (settings["teacher"], settings["more_teachers"]) == ("stored", [])
    assert settings["stage"]["clicks"] == "teacher"
    assert not {*RENAMED.values(), "warmup_fraction"} & {*settings, *settings["stage"]}
    config = parse_config(tiny_settings(ROOT, tmp_path), "test")
    assert settings_of(config)["warmup_steps"] == 0.08
    assert json.loads(cost_settings(config))["cost_repeats"] == config.benchmark_repeats
