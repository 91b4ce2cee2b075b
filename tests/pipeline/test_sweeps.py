"""Successive halving: which variants continue, by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.__main__ import main
from mobile_sam.config.load import Runs, resolve
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.rules import rung_trainings, sweep_inputs, variant_checkpoints
from mobile_sam.pipeline.settings_files import write_settings
from mobile_sam.pipeline.sweeps import best_of, read_halving, write_halving
from mobile_sam.system.errors import ConfigError, UserError
from mobile_sam.system.package_data import CONFIG_DIR
from tests.helpers.runs import TWO_STAGES, tiny_settings

RATES = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def runs(tmp_path: Path, scenes: Path) -> Runs:
    """Four combinations with two seeds, compared after two of four epochs of the second stage."""
    settings = tiny_settings(scenes, tmp_path / "results", num_epochs=6)
    settings |= {"run_name": "my", "stage_schedule": [*TWO_STAGES[:1], {**TWO_STAGES[1]}]}
    settings["stage_schedule"][1]["end_epoch"] = 6
    settings |= {"sweep": {"finetune.learning_rate": RATES}, "replicates": 2}
    path = tmp_path / "my.json"
    path.write_text(json.dumps(settings | {"sweep_stop": {"epochs": [3, 4]}}))
    runs = resolve(str(path), None, {})
    write_settings(runs)
    return runs


def rung(runs: Runs, epoch: int, ious: dict[str, float | None]) -> None:
    """Write what the training of each variant has found at an epoch."""
    found = {p.config.run_name: r for r, (p, _, e) in rung_trainings(runs).items() if e == epoch}
    for name, iou in ious.items():
        found[name].parent.mkdir(exist_ok=True)
        found[name].write_text(json.dumps({"iou": iou, "problem": None}))


def of_rates(*pairs: tuple[float | None, float | None]) -> dict[str, float | None]:
    rows = zip(RATES, pairs, strict=False)
    return {f"my-lr{rate}-seed{s}": iou for rate, pair in rows for s, iou in enumerate(pair)}


def test_the_better_half_continues_by_the_mean_over_seeds(runs: Runs) -> None:
    manifest = RunPaths(runs.variants[0].config).sweep
    rung(runs, 3, of_rates((0.5, 0.1), (0.4, 0.4), (0.2, 0.2), (0.31, 0.31)))
    write_halving(manifest, 3)
    halving = read_halving(manifest, 3)
    assert halving.scores == pytest.approx(
        {"lr0.1": 0.3, "lr0.2": 0.4, "lr0.3": 0.2, "lr0.4": 0.31}
    )
    assert halving.remaining == [f"my-lr{r}-seed{s}" for r in (0.2, 0.4) for s in (0, 1)]
    # Only these are compared at the next epoch, and one in two of them continues.
    rung(runs, 4, dict.fromkeys(halving.remaining, 0.1) | {"my-lr0.4-seed1": 0.2})
    assert main(["sweep", str(manifest), "--halve", "4"]) == 0
    assert read_halving(manifest, 4).remaining == ["my-lr0.4-seed0", "my-lr0.4-seed1"]


def test_a_diverged_seed_stops_its_combination(runs: Runs) -> None:
    manifest = RunPaths(runs.variants[0].config).sweep
    rung(runs, 3, of_rates((0.9, None), (0.2, 0.2), (0.2, 0.2), (0.2, 0.2)))
    write_halving(manifest, 3)
    halving = read_halving(manifest, 3)
    assert halving.scores["lr0.1"] is None
    assert halving.remaining == [f"my-lr{r}-seed{s}" for r in (0.2, 0.3) for s in (0, 1)]
    rung(runs, 3, of_rates(*[(None, None)] * 4))
    with pytest.raises(UserError, match="all variants have diverged by epoch 3"):
        write_halving(manifest, 3)


def test_combinations_that_were_trained_alike_so_far_stay_together() -> None:
    """Two losses in the first stage, three rates in the second, compared in the first."""
    names = [f"{loss}-{rate}" for loss in "ab" for rate in (1, 2, 3)]
    rungs = {name: (Path(name[0]),) for name in names}
    scores: dict[str, float | None] = {name: 0.5 if name[0] == "b" else 0.4 for name in names}
    assert best_of(scores, rungs, 2) == {"b-1", "b-2", "b-3"}
    assert best_of(scores, rungs, 4) == set(names)


def test_what_is_missing_or_damaged_is_named(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    manifest = RunPaths(runs.variants[0].config).sweep
    assert main(["sweep", str(manifest), "--halve", "3"]) == 1
    assert "missing or damaged; train the variant to this epoch first" in caplog.text
    with pytest.raises(ConfigError, match="--halve: 5 is not among the epochs of sweep_stop"):
        write_halving(manifest, 5)
    with pytest.raises(ConfigError, match=r"epoch_3\.json"):
        write_halving(manifest, 4)
    manifest.write_text("{}")
    with pytest.raises(ConfigError, match="not the list of variants"):
        write_halving(manifest, 3)


def test_baselines_of_a_stopped_variant_are_still_measured(runs: Runs) -> None:
    (group,) = runs.variants
    first, *others = group.values
    inputs = sweep_inputs(runs, group, variant_checkpoints(runs), others)
    of_first = [path.stem for path in inputs["validation"] if path.parts[-3] == first]
    assert "box_filled" in of_first
    assert "01_finetune" not in of_first
    assert len(inputs["metrics"]) == 2 * len(others)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": None}, "sweep_stop compares the combinations of sweep, which is null"),
        ({"val_images": 0}, "sweep_stop needs val_images > 0"),
        ({"sweep_stop": {"epochs": []}}, r"sweep_stop\.epochs"),
        ({"sweep_stop": {"epochs": [0]}}, r"sweep_stop\.epochs"),
        ({"sweep_stop": {"epochs": [4, 3]}}, "epochs must increase"),
        ({"sweep_stop": {"epochs": [3], "reduction_factor": 1}}, "reduction_factor"),
        ({"sweep_stop": {"epochs": [6]}}, "6 is not below num_epochs of variant my-lr0.1-seed0"),
        ({"sweep_stop": {"epochs": [2, 4]}}, "until epoch 2, all combinations are trained in the"),
        ({"sweep": {"val_images": [1, 2]}}, "val_images differs between variants"),
        ({"sweep": {"objects_per_image": [1, 2]}}, "objects_per_image differs between variants"),
        ({"sweep": {"sweep_stop": [None]}}, "'sweep_stop' cannot differ between variants"),
    ],
)
def test_wrong_settings_are_an_error_before_any_job(
    changes: dict[str, Any], message: str, runs: Runs, tmp_path: Path
) -> None:
    path = tmp_path / "my.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ConfigError, match=message) as error:
        resolve(str(path), None, {})
    assert "\n" not in str(error.value)


def test_a_new_decision_removes_those_that_followed_the_old_one(runs: Runs) -> None:
    manifest = RunPaths(runs.variants[0].config).sweep
    rung(runs, 3, of_rates((0.5, 0.5), (0.4, 0.4), (0.2, 0.2), (0.3, 0.3)))
    rung(runs, 4, of_rates((0.5, 0.5), (0.4, 0.4), (0.6, 0.6), (0.6, 0.6)))
    write_halving(manifest, 3)
    write_halving(manifest, 4)
    rung(runs, 3, of_rates((0.1, 0.1), (0.1, 0.1), (0.2, 0.2), (0.3, 0.3)))
    write_halving(manifest, 3)
    with pytest.raises(ConfigError, match=r"epoch_4\.json"):
        read_halving(manifest, 4)


def test_a_sweep_over_the_data_can_be_halved(runs: Runs, tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    settings = json.loads(path.read_text()) | {"sweep": {"data.max_objects_per_image": [1, 2]}}
    path.write_text(json.dumps(settings))
    assert len(resolve(str(path), None, {}).named) == 4


@pytest.mark.parametrize(
    ("epochs", "scaled"), [([60], [3]), ([60, 75], [3]), ([90], [3]), ([20, 60], [1, 3])]
)
def test_rungs_stay_in_their_stages_when_a_schedule_is_scaled(
    epochs: list[int], scaled: list[int], tmp_path: Path
) -> None:
    """The shipped run has a first stage of 50 epochs of 100; `tiny` makes it 2 of 4."""
    path = tmp_path / "my.json"
    shipped = json.loads((CONFIG_DIR / "distill_then_finetune.json").read_text())
    path.write_text(json.dumps(shipped | {"sweep_stop": {"epochs": epochs}}))
    rates = {"distill.learning_rate": [0.1, 0.2]}
    found = resolve(str(path), "tiny", {"sweep": rates}).variants[0].config
    assert found.sweep_stop is not None
    assert found.sweep_stop.epochs == scaled


def test_number_of_epochs_scales_the_rungs_too(runs: Runs, tmp_path: Path) -> None:
    scaled = resolve(str(tmp_path / "my.json"), None, {"num_epochs": 12}).variants[0].config
    assert scaled.sweep_stop is not None
    assert scaled.sweep_stop.epochs == [6, 8]
    given = {"num_epochs": 12, "sweep_stop": {"epochs": [5]}}
    scaled = resolve(str(tmp_path / "my.json"), None, given).variants[0].config
    assert scaled.sweep_stop is not None
    assert scaled.sweep_stop.epochs == [5]
