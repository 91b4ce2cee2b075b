from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.data.index import Index
from mobile_sam.data.masks import decode
from mobile_sam.layout import RunPaths, validated
from mobile_sam.training.run import train_run
from mobile_sam.validation import validate
from tests.conftest import TWO_STAGES

Make = Callable[..., RunConfig]


@pytest.fixture
def config(tiny: Make) -> RunConfig:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    train_run(config)
    for what in validated(config):
        validate(config, what)
    return config


def rows(config: RunConfig, what: str) -> pd.DataFrame:
    return pd.read_parquet(RunPaths(config).validation(what))


def test_each_segment_is_measured_by_each_prompt(config: RunConfig) -> None:
    index = Index(RunPaths(config).index, "val")
    segments = sum(len(index[i].segments) for i in range(len(index)))
    for what in ("start", "00_distill", "01_finetune", "teacher"):
        assert rows(config, what).groupby("prompt").size().to_dict() == {
            "box": segments,
            "point": segments,
        }
    assert set(rows(config, "box_filled")["prompt"]) == {"box"}


def test_the_numbers_are_those_of_the_stored_masks(config: RunConfig) -> None:
    for row in rows(config, "01_finetune").itertuples():
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


def test_two_validations_write_equal_bytes(config: RunConfig) -> None:
    path = RunPaths(config).validation("01_finetune")
    before = path.read_bytes()
    validate(config, "01_finetune")
    assert path.read_bytes() == before


def test_the_threshold_binarises_the_logits(config: RunConfig) -> None:
    def pixels(threshold: float) -> float:
        changed = config.model_copy(update={"mask_threshold": threshold})
        validate(changed, "start")
        table = rows(config, "start")
        return sum(decode(r.prediction, (r.height, r.width)).sum() for r in table.itertuples())

    assert pixels(-1e9) == rows(config, "start").eval("height * width").sum()
    assert pixels(1e9) == 0


def test_what_is_not_there_is_named(config: RunConfig) -> None:
    with pytest.raises(
        ConfigError, match="there is no 'x'; there are box_filled, start, 00_distill"
    ):
        validate(config, "x")


def test_every_teacher_is_measured(tiny: Make) -> None:
    more = [{"checkpoint": "random", "model_type": "tiny_teacher_vit"}]
    config = tiny(more_teachers=more)
    train_run(config)
    for what in validated(config):
        validate(config, what)
    first, second = (rows(config, what) for what in ("teacher", "teacher_2"))
    assert set(second["checkpoint"]) == {"teacher_2"}
    assert len(first) == len(second)
    assert first["predicted_iou"].tolist() != second["predicted_iou"].tolist()
    assert validated(config)[-2:] == ["teacher", "teacher_2"]
