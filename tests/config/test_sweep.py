"""Variants of a run: which there are, what they are called, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.config.load import Runs, load_settings, resolve
from mobile_sam.config.sweep import Sweep, combination_members, variant_names
from mobile_sam.system.errors import ConfigError

SCHEDULE = [
    {"name": "distill", "start_epoch": 0, "end_epoch": 2, "distillation": True},
    {"name": "finetune", "start_epoch": 2, "end_epoch": 4, "distillation": False},
]


def runs(tmp_path: Path, sweep: Any, **changes: Any) -> Runs:
    settings = {"num_epochs": 4, "stage_schedule": SCHEDULE, "sweep": sweep, **changes}
    path = tmp_path / "my.json"
    path.write_text(json.dumps({"teacher_checkpoint": "sam_vit_h"} | settings))
    return resolve(str(path), "tiny", {})


def test_a_grid_has_a_variant_for_each_combination(tmp_path: Path) -> None:
    found = runs(tmp_path, {"learning_rate": [1e-4, 3e-4], "finetune.augment.flip": [True, False]})
    assert [config.run_name for config in found.named] == [
        "my-tiny-lr0.0001-fliptrue",
        "my-tiny-lr0.0001-flipfalse",
        "my-tiny-lr0.0003-fliptrue",
        "my-tiny-lr0.0003-flipfalse",
    ]
    assert [config.learning_rate for config in found.named] == [1e-4, 1e-4, 3e-4, 3e-4]
    assert [c.stage_schedule[1].augment.flip for c in found.named] == [True, False] * 2
    assert {c.stage_schedule[0].augment for c in found.named} == {None}
    (group,) = found.variants
    assert group.values["my-tiny-lr0.0003-flipfalse"] == {
        "learning_rate": 3e-4,
        "finetune.augment.flip": False,
    }
    assert found.alone == ()
    assert all(c.sweep is None and c.replicates == 1 for c in found.named)


def test_lists_are_zipped_samples_are_drawn_and_seeds_follow_each_other(tmp_path: Path) -> None:
    zipped = Sweep.model_validate({"zip": {"a": [1, 2], "b": [3, 4]}, "grid": {"c": [5, 6]}})
    assert [tuple(row[key] for key in "abc") for row in zipped.combinations()] == [
        *((1, 3, 5), (2, 4, 5)),
        *((1, 3, 6), (2, 4, 6)),
    ]
    keys = {"rate": {"min": 1e-5, "max": 1e-2, "log": True}, "kind": ["x", "y"]}
    random = Sweep.model_validate({"random": {"samples": 50, "keys": keys}})
    rates = [row["rate"] for row in random.combinations()]
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert 15 < sum(rate < 10**-3.5 for rate in rates) < 35
    assert random.combinations() == random.combinations()
    other = Sweep.model_validate({"random": {"samples": 50, "seed": 1, "keys": keys}})
    assert other.combinations() != random.combinations()
    seeds = runs(tmp_path, None, replicates=3, seed=7).named
    assert [config.seed for config in seeds] == [7, 8, 9]
    assert [config.run_name for config in seeds] == [f"my-tiny-seed{n}" for n in (7, 8, 9)]


def test_recipes_have_names_and_any_keys(tmp_path: Path) -> None:
    """Keys that a recipe leaves out have the values of the run."""
    whole = [{"name": "finetune", "start_epoch": 0, "end_epoch": 8, "distillation": False}]
    recipes = {
        "half": {"finetune.learning_rate": 0.5},
        "alone": {"num_epochs": 8, "stage_schedule": whole},
    }
    found = runs(tmp_path, {"recipes": recipes, "grid": {"batch_size": [4, 8]}})
    assert [config.run_name for config in found.named] == [
        f"my-tiny-{recipe}-bs{size}" for recipe in recipes for size in (4, 8)
    ]
    half, alone = found.named[0], found.named[3]
    assert [entry.learning_rate for entry in half.stage_schedule] == [None, 0.5]
    assert (half.num_epochs, alone.num_epochs, alone.batch_size) == (4, 8, 8)
    assert [entry.end_epoch for entry in alone.stage_schedule] == [8]
    (group,) = found.variants
    assert group.values["my-tiny-alone-bs8"] == {"recipe": "alone", "batch_size": 8}


SWAPPED = [
    {"name": "finetune", "start_epoch": 0, "end_epoch": 6, "distillation": False},
    {"name": "distill", "start_epoch": 6, "end_epoch": 8, "distillation": True},
]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_recipe_with_a_schedule_gives_its_epochs_in_any_order(
    reverse: bool, tmp_path: Path
) -> None:
    keys = {"stage_schedule": SWAPPED, "num_epochs": 8}
    recipe = dict(sorted(keys.items(), reverse=reverse))
    grid = {"finetune.learning_rate": [0.1, 0.2]}
    found = runs(tmp_path, {"recipes": {"run": {}, "swap": recipe}, "grid": grid}).named
    swapped = found[2].stage_schedule
    assert [(e.name, e.end_epoch, e.learning_rate) for e in swapped] == [
        *(("finetune", 6, 0.1), ("distill", 8, None)),
    ]
    assert found[1].stage_schedule[1].learning_rate == 0.2
    with pytest.raises(ConfigError, match=r"'warm\.x' is neither a key of a run nor a stage"):
        runs(tmp_path, {"recipes": {"swap": recipe | {"warm.x": 1}}})


def test_a_recipe_may_be_called_like_a_seed(tmp_path: Path) -> None:
    recipes = {"seed0": {"weight_decay": 0.1}, "long-fold1": {"weight_decay": 0.2}}
    (group,) = runs(tmp_path, {"recipes": recipes}, replicates=2).variants
    members = combination_members("my-tiny", group.values)
    assert members == {
        "seed0": ["my-tiny-seed0-seed0", "my-tiny-seed0-seed1"],
        "long-fold1": ["my-tiny-long-fold1-seed0", "my-tiny-long-fold1-seed1"],
    }


def test_number_of_epochs_scales_the_schedule_of_each_variant(tmp_path: Path) -> None:
    found = runs(tmp_path, {"num_epochs": [4, 8], "distill.lambda_coef": [0.5]}).named
    assert [c.stage_schedule[0].end_epoch for c in found] == [2, 4]
    assert [c.stage_schedule[0].lambda_coef for c in found] == [0.5, 0.5]


def test_names_are_short_unless_two_would_be_equal() -> None:
    rows = [{"a.learning_rate": r, "weights": w} for r in (0.1, 1e-7) for w in ({"x": 1}, None)]
    assert variant_names(rows) == [
        *("lr0.1-weights_x1", "lr0.1-weights_1"),
        *("lr1e-07-weights_x1", "lr1e-07-weights_1"),
    ]
    long = {"first": 0.25, "second": 0.25, "third": 0.5}
    assert variant_names([{"weights": {"x": 0.5, "y": 1}}, {"weights": long}]) == [
        *("weights_x0_5_y1", "weights_1"),
    ]
    same = [{"a.learning_rate": 0.1, "b.learning_rate": 0.2}]
    assert variant_names(same) == ["a.learning_rate0.1-b.learning_rate0.2"]
    assert variant_names([{"teacher": "run:x y"}]) == ["teacher_run_x_y"]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"learning_rat": [1]}, r"'learning_rat' is neither a key .* stages are .*distill"),
        ({"finetune.learning_rat": [1]}, r"variant my-tiny-lr1: .*learning_rat"),
        ({"finetune": [1]}, "'finetune' is a stage; add a key"),
        ({"learning_rate.x": [1]}, "the setting has no parts"),
        ({"learning_rate": [1e-3, -1]}, r"variant my-tiny-lr-1: learning_rate: .*greater than 0"),
        ({"learning_rate": [1e-3, 1e-3]}, "variant my-tiny-lr0.001: two variants have this name"),
        (
            {"distill_losses": [{"mse": 1}, {"cosine": 1}]},
            "has the same settings as my-tiny-dl_mse1",
        ),
        ({"run_name": ["a"]}, "'run_name' cannot differ between variants"),
        ({"data.val_fraction": [0.5]}, "'data.val_fraction' cannot differ between variants"),
        ({"data": [{}]}, None),
        ({}, "sweep: it is empty"),
        ({"learning_rate": []}, r"sweep\.grid\.learning_rate"),
        ({"learning_rate": 3}, r"sweep\.grid\.learning_rate"),
        ({"zip": {"seed": [1, 2], "batch_size": [1]}}, "lists must have equal lengths"),
        ({"zip": {"seed": [1]}, "grid": {"seed": [2]}}, "'seed' occurs twice"),
        ({"recipes": {"a": {"learning_rat": 1}}}, "variant my-tiny-a: .*'learning_rat' is neither"),
        ({"recipes": {"a b": {"seed": 1}}}, r"sweep\.recipes"),
        ({"recipes": {"a": {"seed": 1}}, "grid": {"seed": [2]}}, "'seed' occurs twice"),
        ({"random": {"samples": 3, "keys": {"seed": [1, 2]}}}, "more than the 2 combinations"),
        ({"random": {"samples": 3, "keys": {"seed": {"min": 2, "max": 1}}}}, "min must be less"),
    ],
)
def test_wrong_sweeps_are_named(sweep: Any, message: str | None, tmp_path: Path) -> None:
    if message is None:
        assert len(runs(tmp_path, sweep).named) == 1
        return
    with pytest.raises(ConfigError, match=message) as error:
        runs(tmp_path, sweep)
    assert "\n" not in str(error.value)


def test_commands_take_one_variant_only(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text(json.dumps({"replicates": 2}))
    with pytest.raises(ConfigError, match=r"my\.json: the run stands for its variants"):
        load_settings(path)


def test_other_runs_cannot_refer_to_a_run_with_variants(tmp_path: Path) -> None:
    (tmp_path / "swept.json").write_text(json.dumps({"sweep": {"seed": [1, 2]}}))
    reference = f"run:{tmp_path}/swept.json"
    with pytest.raises(ConfigError, match="the run has variants"):
        runs(tmp_path, None, compare=[reference])


def test_a_run_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model_type": "tiny_sam", "checkpoint": None, "synthetic": {}}
    settings |= dict.fromkeys(("train_img_dir", "train_mask_dir", "val_img_dir", "val_mask_dir"))
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps(settings))
    second.write_text(json.dumps(settings | {"checkpoint": f"run:{first}"}))
    found = resolve(str(second), None, {})
    assert [config.run_name for config in found.all] == ["first", "second"]
    assert found["second"].checkpoint == "run:first"
    other = settings | {"model_type": "demo_student"}
    first.write_text(json.dumps(other))
    with pytest.raises(ConfigError, match=r"'run:first' has the model_type 'demo_student'"):
        resolve(str(second), None, {})
    first.write_text(json.dumps(settings | {"checkpoint": f"run:{second}"}))
    with pytest.raises(ConfigError, match="a run cannot need itself"):
        resolve(str(second), None, {})


def test_folds_take_turns_with_each_seed(tmp_path: Path, scenes: Path) -> None:
    data = {
        "train_img_dir": str(scenes / "train/image"),
        "train_mask_dir": str(scenes / "train/mask"),
    }
    settings = data | {"val_img_dir": None, "val_mask_dir": None, "folds": 3, "replicates": 2}
    path = tmp_path / "my.json"
    path.write_text(json.dumps(settings | {"checkpoint": None, "model_type": "tiny_sam"}))
    found = resolve(str(path), None, {}).named
    assert [config.run_name for config in found] == [
        f"my-seed{seed}-fold{fold}" for seed in range(2) for fold in range(3)
    ]
    assert [config.data.fold and config.data.fold.number for config in found] == [0, 1, 2] * 2
    with pytest.raises(ConfigError, match="folds: parts of the training images take turns"):
        resolve(str(path), None, {"val_img_dir": "x", "val_mask_dir": "y"})


def test_numbers_of_a_sweep_on_the_command_line_are_numbers(tmp_path: Path) -> None:
    """Snakemake passes them as text, which would be in the names of variants."""
    path = tmp_path / "my.json"
    path.write_text(json.dumps({"teacher_checkpoint": "sam_vit_h"}))
    sweep = {"learning_rate": ["0.001", "1e-05"], "augment.flip": ["true"], "seed": [3]}
    found = resolve(str(path), "tiny", {"sweep": sweep}).named
    assert [config.run_name for config in found] == [
        "my-tiny-lr0.001-fliptrue-seed3",
        "my-tiny-lr1e-05-fliptrue-seed3",
    ]
