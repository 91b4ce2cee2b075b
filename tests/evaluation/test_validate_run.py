import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mobile_sam.config.checkpoints import checkpoint_names
from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.table import Index
from mobile_sam.data.masks import decode
from mobile_sam.evaluation.options import evaluation_options
from mobile_sam.evaluation.runner import measure_images, sample_clicked
from mobile_sam.evaluation.tables import read_metadata
from mobile_sam.evaluation.validate_run import join_parts, validate
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.fingerprints import validation_settings
from mobile_sam.report.write import write_report
from mobile_sam.system.errors import ConfigError
from mobile_sam.training.run import train_run
from tests.helpers.runs import TWO_STAGES

Make = Callable[..., RunConfig]


@pytest.fixture
def config(tiny: Make) -> RunConfig:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    train_run(config)
    for what in checkpoint_names(config):
        validate(config, what)
    return config


def rows(config: RunConfig, what: str) -> pd.DataFrame:
    return pd.read_parquet(RunPaths(config).validation(what))


def test_each_segment_is_measured_by_each_prompt(config: RunConfig) -> None:
    index = Index(RunPaths(config).index, "val")
    segments = sum(len(index[i].segments) for i in range(len(index)))
    prompts = ["box", "box_best_of_3", "box_chosen_of_3"]
    prompts += ["point", "point_best_of_3", "point_chosen_of_3", "clicks_3", "clicks_5", "noc"]
    expected = dict.fromkeys([*prompts, "center"], segments)
    for what in ("start", "00_distill", "01_finetune_best", "teacher"):
        assert rows(config, what).groupby("prompt", sort=False).size().to_dict() == expected
    assert set(rows(config, "box_filled")["prompt"]) == {"box"}


def test_the_numbers_are_those_of_the_stored_masks(config: RunConfig) -> None:
    table = rows(config, "01_finetune")
    kept = table[table["prediction"].notna()]
    assert set(kept["prompt"]) == {"box", "point"}
    for row in kept.itertuples():
        size = (row.height, row.width)
        prediction, truth = decode(row.prediction, size), decode(row.truth, size)
        union = (prediction | truth).sum()
        assert row.iou == pytest.approx((prediction & truth).sum() / union)
        assert row.area == truth.sum()


def test_the_filled_box_is_the_box(config: RunConfig) -> None:
    for row in rows(config, "box_filled").itertuples():
        truth = decode(row.truth, (row.height, row.width))
        y, x = np.nonzero(truth)
        box = (y.max() - y.min() + 1) * (x.max() - x.min() + 1)
        assert row.iou == pytest.approx(truth.sum() / box)


@pytest.mark.parametrize("what", ["box_filled", "01_finetune", "teacher"])
def test_two_validations_write_equal_bytes(config: RunConfig, what: str) -> None:
    path = RunPaths(config).validation(what)
    before = path.read_bytes()
    path.unlink()
    shutil.rmtree(RunPaths(config).finished_tables)
    validate(config, what)
    assert path.read_bytes() == before


def refuse(*_: Any) -> Iterator[Any]:
    raise AssertionError("it would have been measured")
    yield


def test_a_measured_table_that_is_deleted_is_restored_until_the_report_has_used_it(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = RunPaths(config)
    before = paths.validation("start").read_bytes()
    paths.validation("start").unlink()
    monkeypatch.setattr("mobile_sam.evaluation.runner.measure_images", refuse)
    validate(config, "start")
    assert paths.validation("start").read_bytes() == before
    write_report(config)
    assert list(paths.finished_tables.iterdir()) == []
    paths.validation("start").unlink()
    with pytest.raises(AssertionError, match="would have been measured"):
        validate(config, "start")


def test_parts_that_are_deleted_are_restored_until_they_are_joined(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(validate_jobs=2)
    paths = RunPaths(config)
    for part in (0, 1):
        validate(config, "start", part)
        before = paths.validation_part("start", part).read_bytes()
        paths.validation_part("start", part).unlink()
        with monkeypatch.context() as measuring_nothing:
            measuring_nothing.setattr("mobile_sam.evaluation.runner.measure_images", refuse)
            validate(config, "start", part)
        assert paths.validation_part("start", part).read_bytes() == before
    join_parts(config, "start")
    assert list(paths.finished_tables.iterdir()) == []


@pytest.mark.parametrize("what", ["box_filled", "00_distill", "00_distill_best"])
def test_jobs_that_share_a_validation_write_the_bytes_of_one(config: RunConfig, what: str) -> None:
    paths = RunPaths(config)
    before = paths.validation(what).read_bytes()
    for path in paths.validation(what).parent.glob("*.parquet"):
        path.unlink()  # or it would be copied
    shared = config.model_copy(update={"validate_jobs": 2})
    for part in (1, 0):
        validate(shared, what, part)
    assert not paths.validation(what).exists()
    join_parts(shared, what)
    assert paths.validation(what).read_bytes() == before


def test_clicks_are_on_a_sample_of_many_objects(tiny: Make) -> None:
    config = tiny(protocols=("box", "clicks", "noc"))
    paths = RunPaths(config)
    validate(config, "start")
    table, metadata = rows(config, "start"), read_metadata(paths.validation("start"))
    objects = len(table[table["prompt"] == "box"])
    assert "click_objects" not in metadata["measuring"]  # of few objects, all are clicked
    few = config.model_copy(update={"click_objects": 2, "validate_jobs": 2})
    validate(few, "start")
    before, sampled = paths.validation("start").read_bytes(), rows(few, "start")
    assert read_metadata(paths.validation("start"))["measuring"]["click_objects"] == 2
    assert sampled["prompt"].value_counts().to_dict() == {
        **{"box": objects, "clicks_3": 2, "clicks_5": 2, "noc": 2}
    }
    keys = ["prompt", "image_id", "segment_id"]
    both = sampled.merge(table, on=keys, suffixes=("", "_of_all"))
    assert len(both) == len(sampled)
    assert (both["iou"] - both["iou_of_all"]).abs().max() < 0.02  # other batches round otherwise
    shutil.rmtree(paths.finished_tables)
    paths.validation("start").unlink()
    for part in (0, 1):
        validate(few, "start", part)
    join_parts(few, "start")
    assert paths.validation("start").read_bytes() == before


def test_a_sample_of_clicks_is_the_same_for_all_models(tiny: Make) -> None:
    index = Index(RunPaths(tiny()).index, "val")
    assert index.object_counts().tolist() == [len(index[i].segments) for i in range(len(index))]
    options = evaluation_options(tiny(click_objects=3))
    clicked = sample_clicked(index, options)
    assert sum(map(len, clicked.values())) == 3
    assert all(n < len(index[i].segments) for i, numbers in clicked.items() for n in numbers)
    assert clicked == sample_clicked(index, options)
    assert sample_clicked(index, evaluation_options(tiny(click_objects=index.objects))) == {}


def test_the_number_of_clicked_objects_validates_again_only_if_it_is_set(tiny: Make) -> None:
    config = tiny()
    settings = {
        changed: validation_settings(config.model_copy(update={"click_objects": changed}), "start")
        for changed in (3000, 2, None)
    }
    assert "click_objects" not in settings[3000]
    assert len(set(settings.values())) == 3


def test_parts_of_other_settings_are_not_joined(config: RunConfig) -> None:
    shared = config.model_copy(update={"validate_jobs": 2})
    validate(shared, "start", 0)
    validate(shared.model_copy(update={"mask_threshold": 0.5}), "start", 1)
    with pytest.raises(ConfigError, match=r"start\.1of2\.parquet: its settings differ from"):
        join_parts(shared, "start")
    with pytest.raises(ConfigError, match="--part: 2 is out of range; validate_jobs is 2"):
        validate(shared, "start", 2)


def test_what_was_measured_is_not_measured_again(
    tiny: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the best epoch, where it is the last; of the teacher, in another run; by other jobs."""
    config = tiny(num_epochs=1)
    train_run(config)
    other = config.model_copy(update={"run_name": "other", "validate_jobs": 2})
    validate(config, "00_finetune")
    validate(config, "teacher")
    assert "same weights and options" not in caplog.text
    caplog.set_level("INFO")
    validate(config, "00_finetune_best")
    assert "00_finetune_best: reusing " in caplog.text
    last, best = (rows(config, what) for what in ("00_finetune", "00_finetune_best"))
    assert set(best.pop("checkpoint")) == {"00_finetune_best"}
    pd.testing.assert_frame_equal(best, last.drop(columns="checkpoint"))
    caplog.clear()
    for part in (0, 1):
        validate(other, "teacher", part)
    assert caplog.text.count("teacher: reusing ") == 2
    join_parts(other, "teacher")
    tables = [RunPaths(c).validation("teacher").read_bytes() for c in (config, other)]
    assert tables[0] == tables[1]


def test_what_is_measured_meanwhile_is_neither_lost_nor_doubled(tiny: Make) -> None:
    """Two jobs of one table, one before another table of the same weights is there, one after."""
    config = tiny(num_epochs=1)
    other = config.model_copy(update={"run_name": "other", "validate_jobs": 2})
    for first, second in ((0, 1), (1, 0)):
        validate(other, "teacher", first)
        validate(config, "teacher")
        validate(other, "teacher", second)
        join_parts(other, "teacher")
        tables = [RunPaths(c).validation("teacher") for c in (config, other)]
        assert tables[0].read_bytes() == tables[1].read_bytes()
        for table in tables:
            table.unlink()


@pytest.mark.parametrize(
    "changes", [{"mask_threshold": 1.0}, {"protocols": ("box",)}, {"img_size": 128}]
)
def test_what_was_measured_otherwise_is_measured_again(
    tiny: Make, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    caplog.set_level("INFO")
    config = tiny()
    validate(config, "start")
    validate(config.model_copy(update={"run_name": "other", **changes}), "start")
    assert "same weights and options" not in caplog.text


def test_without_images_to_look_at_no_epoch_is_best(tiny: Make) -> None:
    assert checkpoint_names(tiny(val_images=0)) == ["box_filled", "start", "00_finetune", "teacher"]


def test_other_weights_are_measured_beside(tiny: Make, tmp_path: Path) -> None:
    config = tiny()
    other = build_sam_model("tiny_sam_se", 64, seed=5)
    torch.save(to_original(other), tmp_path / "their model.pt")
    compare = config.model_copy(update={"compare": (str(tmp_path / "their model.pt"),)})
    assert checkpoint_names(compare)[-1] == "their_model"
    validate(compare, "their_model")
    index = Index(RunPaths(config).index, "val")
    expected = measure_images(
        other.eval(), index, range(len(index)), evaluation_options(config), "x"
    )
    assert rows(compare, "their_model")["iou"].tolist() == [row["iou"] for row in expected]


@pytest.mark.parametrize("name", ["start.pt", "teacher.pt", "00_finetune.pt"])
def test_other_weights_have_a_name_of_their_own(tiny: Make, tmp_path: Path, name: str) -> None:
    config = tiny().model_copy(update={"compare": (str(tmp_path / name),)})
    with pytest.raises(ConfigError, match="rename the file"):
        checkpoint_names(config)


def test_the_threshold_binarises_the_logits(config: RunConfig) -> None:
    def pixels(threshold: float) -> float:
        changed = config.model_copy(update={"mask_threshold": threshold})
        validate(changed, "start")
        table = rows(config, "start")
        kept = table[table["prediction"].notna()]
        return sum(decode(r.prediction, (r.height, r.width)).sum() for r in kept.itertuples())

    kept = rows(config, "start").query("prompt in ('box', 'point')")
    assert pixels(-1e9) == kept.eval("height * width").sum()
    assert pixels(1e9) == 0


def test_what_is_not_there_is_named(config: RunConfig) -> None:
    with pytest.raises(
        ConfigError, match="there is no 'x'; there are box_filled, start, 00_distill"
    ):
        validate(config, "x")


def test_every_teacher_is_measured(tiny: Make) -> None:
    more = [{"checkpoint": "random", "model_type": "tiny_teacher_vit"}]
    config = tiny(extra_teachers=more)
    train_run(config)
    for what in checkpoint_names(config):
        validate(config, what)
    first, second = (rows(config, what) for what in ("teacher", "teacher_2"))
    assert set(second["checkpoint"]) == {"teacher_2"}
    assert len(first) == len(second)
    assert first["predicted_iou"].tolist() != second["predicted_iou"].tolist()
    assert checkpoint_names(config)[-2:] == ["teacher", "teacher_2"]
