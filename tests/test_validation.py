from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.data.index import Index
from mobile_sam.data.masks import decode
from mobile_sam.layout import RunPaths, validated
from mobile_sam.report import write_report
from mobile_sam.report.plots import example_images
from mobile_sam.report.tables import objects_table, summary, verdict
from mobile_sam.training.run import train_run
from mobile_sam.validation import validate
from tests.conftest import TWO_STAGES

Make = Callable[..., RunConfig]


@pytest.fixture
def config(tiny: Make) -> RunConfig:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES, report_examples=2)
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


def test_the_report_is_complete_and_needs_no_network(config: RunConfig) -> None:
    words = write_report(config)
    report = RunPaths(config).report
    page = (report / "index.html").read_text()
    table = pd.read_csv(report / "summary.csv")
    assert list(table.columns) == ["checkpoint", "prompt", "objects", "miou", "dice"]
    assert list(table["checkpoint"].unique()) == [
        *("box_filled", "start", "00_distill", "01_finetune", "teacher")
    ]
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page.replace("http-equiv", "")
    for name in ("data.png", "epochs.png", "iou_histogram.png", "examples.png", "epochs.csv"):
        assert (report / name).stat().st_size > 0
    assert str(report / "index.html") in words
    for what in validated(config):
        assert what in words
        assert what in page
    mean = rows(config, "teacher").query("prompt == 'box'")["iou"].mean()
    assert f"{mean:.3f}" in page


def test_every_teacher_is_measured_and_shown(tiny: Make) -> None:
    more = [{"checkpoint": "random", "model_type": "tiny_teacher_vit"}]
    config = tiny(more_teachers=more)
    train_run(config)
    for what in validated(config):
        validate(config, what)
    words = write_report(config)
    first, second = (rows(config, what) for what in ("teacher", "teacher_2"))
    assert set(second["checkpoint"]) == {"teacher_2"}
    assert len(first) == len(second)
    assert first["predicted_iou"].tolist() != second["predicted_iou"].tolist()
    assert validated(config)[-2:] == ["teacher", "teacher_2"]
    page = (RunPaths(config).report / "index.html").read_text()
    found = [table[table["prompt"] == "box"]["iou"].mean() for table in (first, second)]
    assert f"the teachers reach {found[0]:.3f} (teacher), {found[1]:.3f} (teacher_2)" in page
    assert "<code>teacher_2</code> is random:1 (tiny_teacher_vit)" in page
    assert "teacher_2" in words


def test_examples_are_ranked_by_the_last_stage() -> None:
    better = {"start": "a", "00_distill": "b", "teacher": "a", "teacher_2": "a"}
    objects = pd.DataFrame(
        [
            {"checkpoint": c, "prompt": "box", "image_id": image, "iou": float(image == best)}
            for c, best in better.items()
            for image in ("b", "a")
        ]
    )
    assert example_images(objects, 2) == ["a", "b"]


def test_the_number_of_examples_is_a_setting(config: RunConfig) -> None:
    objects = objects_table(config)
    assert [len(example_images(objects, n)) for n in (0, 1, 2, 9)] == [0, 1, 2, 3]
    write_report(config.model_copy(update={"report_examples": 0}))
    assert "Examples" not in (RunPaths(config).report / "index.html").read_text()


def test_a_missing_table_says_how_to_make_it(config: RunConfig) -> None:
    RunPaths(config).validation("teacher").unlink()
    with pytest.raises(ConfigError, match="run `validate --what teacher` first"):
        write_report(config)


def test_the_verdict_says_which_is_best(tiny: Make) -> None:
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    values = {
        "box_filled": 0.5,
        "start": 0.1,
        "00_distill": 0.6,
        "01_finetune": 0.4,
        "teacher": 0.9,
    }
    objects = pd.DataFrame(
        [{"checkpoint": c, "prompt": "box", "iou": v, "dice": v} for c, v in values.items()]
    )
    words = verdict(summary(objects), config)
    assert "The best is 00_distill with 0.600, above the filled box (0.500)" in words
    assert "0.100 (start), then 0.600 (00_distill), then 0.400 (01_finetune)" in words
    assert "the teacher reaches 0.900" in words
