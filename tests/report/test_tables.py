import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobile_sam.config.run import RunConfig
from mobile_sam.evaluation.tables import write_table
from mobile_sam.paths import RunPaths
from mobile_sam.report.differences import compare_checkpoints
from mobile_sam.report.inputs.reading import (
    concat_objects,
    read_masks,
    read_objects,
    read_sweep,
    read_times,
)
from mobile_sam.report.plots.cost import cost_table
from mobile_sam.report.sections.prompts import calibration_tables, threshold_table
from mobile_sam.report.tables import automatic, by_class, by_image, by_size, clicks, summary
from mobile_sam.system.errors import UserError
from tests.helpers.report_objects import report, row, table
from tests.helpers.report_tables import EVERY, THRESHOLDS


def test_the_summary_is_the_mean_over_segments_by_what_and_prompt() -> None:
    rows = [row("start", "a", 0.2, "point"), row("start", "a", 0.4), row("start", "b", 0.8)]
    found = summary(table(rows))
    assert found["prompt"].tolist() == ["box", "point"]
    assert found["objects"].tolist() == [2, 1]
    first = found.iloc[0]
    assert first["miou"] == pytest.approx(0.6)
    assert first["dice"] == pytest.approx(0.3)
    assert first["boundary_iou"] == pytest.approx(0.15)
    assert first["j_and_f"] == pytest.approx((0.6 + 0.3) / 2)


def test_whats_keep_the_order_of_the_tables() -> None:
    rows = [row(name, "a", 0.5) for name in ("start", "00_b", "teacher", "a_compared")]
    frames = [table([one]) for one in rows]
    assert summary(concat_objects(frames))["checkpoint"].tolist() == [r["checkpoint"] for r in rows]


def test_sizes_are_those_of_coco() -> None:
    areas = {1023: "small", 1024: "medium", 9215: "medium", 9216: "large"}
    rows = [row("start", "a", 0.1 * n, area=area) for n, area in enumerate(areas, start=1)]
    found = by_size(table(rows)).set_index("size")
    assert found["objects"].to_dict() == {"small": 1, "medium": 2, "large": 1}
    assert found.index.tolist() == ["small", "medium", "large"]
    assert found.loc["medium", "miou"] == pytest.approx(0.25)


def test_classes_are_counted_where_there_are_any() -> None:
    rows = [row("start", "a", 0.2), row("start", "a", 0.4)]
    assert len(by_class(table(rows))) == 0
    named = [one | {"class": "cell"} for one in rows] + [row("start", "a", 0.9)]
    found = by_class(table(named))
    assert found[["class", "objects"]].values.tolist() == [["cell", 2]]
    assert found["miou"].tolist() == pytest.approx([0.3])


def test_a_session_that_reaches_the_limit_with_the_last_click_has_reached_it() -> None:
    rows = [
        row("start", "a", 0.95, "noc", noc_80=3, noc_90=7),
        row("start", "a", 0.85, "noc", noc_80=20, noc_90=20),
        row("start", "a", 0.50, "noc", noc_80=20, noc_90=20),
        row("start", "a", 0.10),
    ]
    found = clicks(table(rows)).iloc[0]
    assert found["objects"] == 3
    assert found["noc_80"] == pytest.approx((3 + 20 + 20) / 3)
    assert found["noc_90"] == pytest.approx((7 + 20 + 20) / 3)
    assert found["never_80"] == pytest.approx(1 / 3)
    assert found["never_90"] == pytest.approx(2 / 3)


def test_average_recall_is_the_mean_of_recalls() -> None:
    rows = [row("start", i, v, "automatic", recall=r) for i, v, r in (("a", 0.8, 0.7), ("b", 0, 0))]
    found = automatic(table([*rows, row("start", "c", 0.9)])).iloc[0]
    assert (found["images"], found["objects"]) == (2, 2)
    assert found["ar"] == pytest.approx(0.35)
    assert found["abo"] == pytest.approx(0.4)


def test_an_image_has_the_mean_of_its_segments() -> None:
    rows = [row("start", "b", 0.2), row("start", "b", 0.4), row("start", "a", 0.9)]
    rows += [row("teacher", "a", 1.0), row("teacher", "b", 0.5, "point")]
    found = by_image(table(rows), "box")
    assert found.loc["b", "start"] == pytest.approx(0.3)
    assert found.loc["a", "teacher"] == 1.0
    assert np.isnan(found.loc["b", "teacher"])


def test_a_difference_is_of_segments_and_beyond_chance_when_all_images_agree() -> None:
    rows = [row("start", image, 0.5) for image in "abcdefgh"]
    rows += [row("00_distill", image, 0.6 + 0.01 * n) for n, image in enumerate("abcdefgh")]
    rows += [row("01_finetune", image, 0.5 + 0.1 * (-1) ** n) for n, image in enumerate("abcdefgh")]
    found = {(d.checkpoint, d.against): d for d in compare_checkpoints(report(rows))}
    first = found["00_distill", "start"]
    assert first.difference == pytest.approx(0.135)
    assert (first.units, first.objects, first.miou_against) == (8, 8, 0.5)
    assert 0.1 < first.low < first.difference < first.high < 0.17
    assert first.significant
    second = found["01_finetune", "start"]
    assert second.difference == pytest.approx(0, abs=1e-12)
    assert not second.significant
    assert ("01_finetune", "00_distill") in found


def test_one_image_says_nothing_about_chance() -> None:
    rows = [row("start", "a", 0.1), row("00_distill", "a", 0.9)]
    (found,) = compare_checkpoints(report(rows))
    assert np.isnan(found.low)
    assert not found.significant


def test_other_segments_do_not_compare() -> None:
    rows = [row("start", "a", 0.1), row("00_distill", "b", 0.9)]
    with pytest.raises(UserError, match="not evaluated on the same objects with prompt box"):
        compare_checkpoints(report(rows))


def test_calibration_leaves_out_what_predicts_nothing() -> None:
    rows = [row("box_filled", "a", 0.5, predicted_iou=float("nan"))]
    rows += [row("start", "a", 0.5, predicted_iou=0.75), row("00_distill", "a", 0.5)]
    curves, errors = calibration_tables(report(rows))
    assert errors["checkpoint"].tolist() == ["start", "00_distill"]
    assert errors["expected_error"].tolist() == pytest.approx([0.25, 0])
    assert curves.iloc[0][["predicted_iou", "iou", "objects"]].tolist() == [0.75, 0.5, 1]


def test_the_best_threshold_is_the_nearest_of_the_best() -> None:
    sweeps = pd.DataFrame(
        {
            "checkpoint": "start",
            "prompt": "box",
            "threshold": [-1.0, 0.0, 0.5, 2.0],
            "miou": [0.4, 0.5, 0.7, 0.7],
        }
    )
    found = threshold_table(sweeps, 0.1).iloc[0]
    assert found["miou"] == 0.5
    assert (found["best_threshold"], found["best_miou"]) == (0.5, 0.7)
    assert found["gain"] == pytest.approx(0.2)


def test_a_stage_costs_what_the_start_costs() -> None:
    costs = pd.DataFrame(
        {"checkpoint": ["start", "teacher"], "encoder_ms": [20.0, 800.0], "decoder_ms": 5.0}
    )
    rows = [row(name, "a", v) for name, v in (("start", 0.1), ("00_distill", 0.6), ("teacher", 1))]
    rows += [row("box_filled", "a", 0.5), row("mobile_sam", "a", 0.5)]
    one = report(rows, costs=costs)
    found = cost_table(one, summary(one.objects)).set_index("checkpoint")
    assert found["total_ms"].to_dict() == {"start": 25, "00_distill": 25, "teacher": 805}
    assert found.loc["00_distill", "miou"] == 0.6


def test_a_table_is_read_without_masks(finished: RunConfig) -> None:
    path = RunPaths(finished).validation("start")
    found = read_objects(path, "other")
    whole = pd.read_parquet(path)
    assert set(found["checkpoint"]) == {"other"}
    assert not {"truth", "prediction", "sweep"} & set(found.columns)
    assert found["iou"].tolist() == whole["iou"].tolist()
    assert set(found["prompt"]) == set(EVERY)


def test_masks_are_read_of_the_images_asked_for(finished: RunConfig) -> None:
    path = RunPaths(finished).validation("start")
    whole = pd.read_parquet(path)
    image = whole["image_id"].iloc[-1]
    found = read_masks(path, [image], "box")
    wanted = whole[(whole["image_id"] == image) & (whole["prompt"] == "box")]
    assert found["segment_id"].tolist() == wanted["segment_id"].tolist()
    assert found["prediction"].tolist() == wanted["prediction"].tolist()


def test_a_sweep_is_the_mean_over_segments(finished: RunConfig, tmp_path: Path) -> None:
    path = RunPaths(finished).validation("start")
    whole = pd.read_parquet(path)
    # In several row groups.
    pq.write_table(pq.read_table(path), tmp_path / "start.parquet", row_group_size=7)
    for source in (path, tmp_path / "start.parquet"):
        found = read_sweep(source, "start")
        assert set(found["prompt"]) == {"box", "point"}
        for prompt in ("box", "point"):
            rows = np.stack(whole[whole["prompt"] == prompt]["sweep"].to_list())
            of_prompt = found[found["prompt"] == prompt]
            assert of_prompt["threshold"].tolist() == list(THRESHOLDS)
            assert of_prompt["miou"].tolist() == pytest.approx(rows.mean(0), rel=1e-6)


def test_the_filled_box_has_no_sweep(finished: RunConfig) -> None:
    assert len(read_sweep(RunPaths(finished).validation("box_filled"), "box_filled")) == 0


def test_a_table_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "start.parquet"
    pq.write_table(pa.table({"checkpoint": ["start"], "iou": [0.5]}), path)
    with pytest.raises(UserError, match=r"format version 1, .*validate again"):
        read_objects(path, "start")
    with pytest.raises(UserError, match="run `validate --checkpoint teacher` first"):
        read_objects(tmp_path / "teacher.parquet", "teacher")
    path.write_text(json.dumps({}))
    with pytest.raises(UserError, match="not a validation table"):
        read_objects(path, "start")
    write_table(path, [], {"thresholds": []})
    with pytest.raises(UserError, match="the table is empty"):
        read_objects(path, "start")


def test_times_of_rules_are_read_and_missing_ones_tolerated(tmp_path: Path) -> None:
    (tmp_path / "index.tsv").write_text("s\th:m:s\tmax_rss\n90.0\t0:01:30\t-\n")
    (tmp_path / "report.tsv").write_text("s\th:m:s\tmax_rss\n1.0\t0:00:01\t5\n")
    assert read_times(tmp_path / "nowhere").empty
    found = read_times(tmp_path)
    assert found["rule"].tolist() == ["index"]
    assert found["minutes"].tolist() == [1.5]
    assert np.isnan(found["memory_mib"].iloc[0])
