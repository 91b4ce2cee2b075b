import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mobile_sam.config.checkpoints import checkpoint_names
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.evaluation.tables import read_metadata, write_table
from mobile_sam.paths import RunPaths
from mobile_sam.report.inputs.from_run import read_run, run_checkpoints
from mobile_sam.report.inputs.from_runs import read_runs
from mobile_sam.report.labels import PROMPTS
from mobile_sam.report.outputs import report_pictures
from mobile_sam.report.sections.prompts import clicks
from mobile_sam.report.tables import ReportTables, summary
from mobile_sam.report.write import (
    read_tables,
    write_comparison,
    write_evaluation,
    write_report,
)
from mobile_sam.system.errors import ConfigError, UserError
from tests.helpers.commands import ROOT
from tests.helpers.report_runs import ERRORS, write_extras, write_run

ALWAYS = (
    *("results", "differences", "sizes", "iou_histogram", "epochs", "calibration", "thresholds"),
    "data",
)
GROUPS = ("best", "median", "worst", "worse")


@pytest.fixture
def copied(finished: RunConfig, tmp_path: Path) -> RunConfig:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished.output_dir, tmp_path / "copy")
    return finished.model_copy(update={"output_dir": str(tmp_path / "copy")})


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', page)


def test_the_start_says_where_its_decoder_is_from(finished: RunConfig) -> None:
    copying = finished.model_copy(update={"decoder_from_teacher": True})
    own, copied = (run_checkpoints(config)[1].description for config in (finished, copying))
    assert own == "the student before training: random weights (tiny_sam)"
    assert copied == f"{own}, with the teacher's decoder"


def test_the_page_has_everything_and_needs_no_network(finished: RunConfig, page: Path) -> None:
    text = page.read_text()
    assert "http" not in text
    assert not re.findall(r'(?:src|href)="(?!data:|#|[\w.]+\.(?:png|csv)")', text)
    assert sections(text) == [
        *("results", "differences", "gallery", "sizes", "distribution", "clicks", "automatic"),
        *("precision", "cost", "training", "calibration", "thresholds", "data", "origin"),
    ]
    for checkpoint in checkpoint_names(finished):
        assert checkpoint in text
    for prompt in PROMPTS.values():
        assert prompt.label in text
    for printed in ("0.1.0", "abc1234", "train_00_distill", "tiny_teacher_vit", "val_img_dir"):
        assert printed in text


def test_numbers_are_those_of_the_tables(finished: RunConfig, page: Path) -> None:
    for checkpoint in ("start", "teacher"):
        rows = pd.read_parquet(RunPaths(finished).validation(checkpoint))
        for prompt in ("box", "point"):
            mean = rows[rows["prompt"] == prompt]["iou"].mean()
            assert f'data-value="{mean:.6g}"><bdi>{mean:.3f}</bdi></td>' in page.read_text()


def test_png_and_csv_lie_beside_the_page(page: Path) -> None:
    for name in (*ALWAYS, "clicks", "quality_and_cost"):
        assert Image.open(page.with_name(f"{name}.png")).size[0] > 300
        assert len(pd.read_csv(page.with_name(f"{name}.csv"))) > 0
        assert f'href="{name}.png"' in page.read_text()
    for group in GROUPS:
        assert Image.open(page.with_name(f"gallery_{group}.png")).size[0] > 100
    table = pd.read_csv(page.with_name("summary.csv"))
    assert list(table.columns[:5]) == ["checkpoint", "prompt", "objects", "miou", "dice"]
    assert list(table["checkpoint"].unique()) == list(ERRORS)


def test_snakemake_finds_every_picture_and_its_caption(finished: RunConfig, page: Path) -> None:
    for name in ("index", "summary", *report_pictures(finished)):
        assert (ROOT / "workflow" / "report" / f"{name}.rst").read_text().strip()
    for name in report_pictures(finished):
        assert page.with_name(f"{name}.png").is_file()


def test_equal_inputs_give_equal_bytes(finished: RunConfig, page: Path) -> None:
    before = {path.name: path.read_bytes() for path in page.parent.iterdir()}
    write_report(finished)
    after = {path.name: path.read_bytes() for path in page.parent.iterdir()}
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


def test_sections_are_there_when_there_is_something_in_them(copied: RunConfig) -> None:
    paths = RunPaths(copied)
    paths.validation("cost").with_suffix(".csv").unlink()
    for path in paths.validation("start").parent.glob("*.ap.json"):
        path.unlink()
    shutil.rmtree(paths.benchmarks)
    write_report(copied.model_copy(update={"report_examples": 0}))
    text = (paths.report / "index.html").read_text()
    assert sections(text) == [
        *("results", "differences", "sizes", "distribution", "clicks", "automatic"),
        *("training", "calibration", "thresholds", "data", "origin"),
    ]


def test_a_sample_of_clicked_objects_is_named(finished: RunConfig) -> None:
    report = read_run(finished)
    whole = clicks(ReportTables(report))
    assert whole is not None
    assert "sample" not in whole.note
    rows = report.objects
    first = rows["segment_id"] == rows["segment_id"].iloc[0]
    sampled = rows[first | ~rows["prompt"].isin(["clicks_3", "clicks_5", "noc"])]
    section = clicks(ReportTables(replace(report, objects=sampled)))
    assert section is not None
    assert re.search(r"random sample of \d+ of \d+ objects: click_objects", section.note)


def test_a_run_of_plain_prompts_has_no_clicks(six_scenes: Path, tmp_path: Path) -> None:
    config = write_run(six_scenes, tmp_path)
    write_report(config)
    text = (RunPaths(config).report / "index.html").read_text()
    assert not {"clicks", "automatic", "precision", "cost"} & set(sections(text))
    assert "All prompts" not in text
    for name in ALWAYS:
        assert (RunPaths(config).report / f"{name}.png").is_file()


def test_a_missing_table_says_how_to_make_it(copied: RunConfig) -> None:
    RunPaths(copied).validation("teacher").unlink()
    with pytest.raises(UserError, match="run `validate --checkpoint teacher` first"):
        write_report(copied)


def test_missing_epochs_say_how_to_make_them(copied: RunConfig) -> None:
    RunPaths(copied).metrics(normalise(copied)[1]).unlink()
    with pytest.raises(ConfigError, match="train stage 01_finetune first"):
        write_report(copied)


def test_every_teacher_is_shown(six_scenes: Path, tmp_path: Path) -> None:
    more = [{"checkpoint": "random", "model_type": "tiny_teacher_vit"}]
    config = write_run(six_scenes, tmp_path, {"teacher_2": 0.02}, extra_teachers=more)
    printed = write_report(config)
    text = (RunPaths(config).report / "index.html").read_text()
    assert "<dt>teacher_2</dt><dd>random:1 (tiny_teacher_vit)</dd>" in text
    assert "teacher_2" in printed
    assert re.search(r"above teacher_2|below teacher_2", text)


def test_words_of_the_data_cannot_break_the_page(six_scenes: Path, tmp_path: Path) -> None:
    config = write_run(six_scenes, tmp_path)
    path = RunPaths(config).validation("start")
    path.with_suffix(".ap.json").write_text(json.dumps({"<script>alert(1)</script>": 0.5}))
    write_report(config)
    text = (RunPaths(config).report / "index.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


@pytest.fixture
def two_runs(six_scenes: Path, tmp_path: Path) -> list[RunConfig]:
    errors = {"01_finetune": 0.06, "00_distill": 0.05}
    first = write_run(six_scenes, tmp_path, run_name="first")
    second = write_run(six_scenes, tmp_path, errors, run_name="second")
    write_extras(first)
    return [second, first]


def test_runs_are_compared_by_their_final_weights(two_runs: list[RunConfig]) -> None:
    one = read_runs(two_runs)
    assert one.names == ["box_filled", "start", "second", "first", "teacher"]
    assert one.main == "first"
    miou = summary(one.objects).set_index(["checkpoint", "prompt"])["miou"]
    for config in two_runs:
        rows = pd.read_parquet(RunPaths(config).validation("01_finetune"))
        mean = rows[rows["prompt"] == "box"]["iou"].mean()
        assert miou[config.run_name, "box"] == pytest.approx(mean)
    assert one.pairs[:2] == (("first", "second"), ("first", "box_filled"))


def test_the_comparison_is_one_page(two_runs: list[RunConfig], tmp_path: Path) -> None:
    printed = write_comparison(two_runs, tmp_path / "both")
    text = (tmp_path / "both" / "index.html").read_text()
    assert "Of 2 checkpoints, first reaches" in text
    assert "Images where another run is better than first" in text
    assert "first: training loss" in text
    assert "second: training loss" in text
    assert {"results", "gallery", "cost", "training", "origin"} <= set(sections(text))
    assert str(tmp_path / "both" / "index.html") in printed


def test_what_is_not_shared_is_there_for_each_run(two_runs: list[RunConfig]) -> None:
    path = RunPaths(two_runs[0]).validation("teacher")
    rows = pd.read_parquet(path)
    other = RunPaths(two_runs[0]).validation("start")
    shutil.copy(other, path)
    assert rows["iou"].tolist() != pd.read_parquet(path)["iou"].tolist()
    one = read_runs(two_runs)
    assert one.names[-2:] == ["teacher of second", "teacher of first"]
    assert ("first", "teacher of second") in one.pairs


def test_runs_of_other_data_do_not_compare(
    two_runs: list[RunConfig], tiny: Callable[..., RunConfig]
) -> None:
    with pytest.raises(ConfigError, match="differ in data set"):
        read_runs([two_runs[0], tiny(run_name="other")])
    with pytest.raises(ConfigError, match="name at least two different runs"):
        read_runs(two_runs[:1])
    changed = two_runs[1].model_copy(update={"mask_threshold": 0.5})
    with pytest.raises(ConfigError, match="differ in mask_threshold"):
        read_runs([two_runs[0], changed])


def test_tables_alone_make_a_page(finished: RunConfig, tmp_path: Path) -> None:
    tables = [RunPaths(finished).validation(w) for w in ("box_filled", "01_finetune", "teacher")]
    costs = RunPaths(finished).cost
    printed = write_evaluation(tables, tmp_path / "alone", "my weights", costs=costs)
    text = (tmp_path / "alone" / "index.html").read_text()
    assert "<h1>my weights</h1>" in text
    assert "01_finetune reaches a mean IoU of" in text
    assert "training" not in sections(text)
    assert {"results", "differences", "gallery", "cost", "clicks"} <= set(sections(text))
    assert "mIoU box" in printed


def test_a_table_of_costs_brings_no_mean_iou_along(finished: RunConfig, tmp_path: Path) -> None:
    """The table behind the figure of an earlier page has a mean IoU, which was true then."""
    table = RunPaths(finished).validation("01_finetune")
    earlier = pd.read_csv(RunPaths(finished).cost).head(1)
    earlier = earlier.assign(miou=0.913, checkpoint="01_finetune")
    earlier.to_csv(tmp_path / "cost.csv", index=False)
    write_evaluation([table], tmp_path / "page", "mine", costs=tmp_path / "cost.csv")
    figure = pd.read_csv(tmp_path / "page" / "quality_and_cost.csv")
    summary = pd.read_csv(tmp_path / "page" / "summary.csv").set_index("prompt")["miou"]
    assert figure["miou"].tolist() == [pytest.approx(summary["box"])]
    write_evaluation([table], tmp_path / "page", "mine")
    assert "cost" not in sections((tmp_path / "page" / "index.html").read_text())


def test_one_table_alone_makes_a_page(finished: RunConfig, tmp_path: Path) -> None:
    shutil.copy(RunPaths(finished).validation("start"), tmp_path)
    write_evaluation([tmp_path / "start.parquet"], tmp_path / "alone", "one", examples=1)
    text = (tmp_path / "alone" / "index.html").read_text()
    assert "start reaches a mean IoU of" in text
    assert "differences" not in sections(text)


def test_tables_that_do_not_belong_together_are_refused(finished: RunConfig) -> None:
    start, box = (RunPaths(finished).validation(w) for w in ("start", "box_filled"))
    with pytest.raises(UserError, match="several tables of start"):
        read_tables([start, start], "twice")
    with pytest.raises(UserError, match="no table of a model"):
        read_tables([box], "nothing")


def test_what_is_exported_is_the_main_checkpoint(finished: RunConfig) -> None:
    assert read_run(finished).main == "01_finetune"
    assert ("01_finetune", "00_distill") in read_run(finished).pairs


@pytest.mark.parametrize("kept", ["last", "best"])
def test_a_best_epoch_that_is_the_last_is_shown_once(copied: RunConfig, kept: str) -> None:
    config = copied.model_copy(update={"use_checkpoint": kept})
    paths = RunPaths(config)
    assert read_run(config).main == {"last": "01_finetune", "best": "01_finetune_best"}[kept]
    for checkpoint in ("01_finetune", "01_finetune_best"):
        rows = pq.read_table(paths.validation(checkpoint)).to_pylist()
        about = read_metadata(paths.validation(checkpoint)) | {"weights": "the same"}
        write_table(paths.validation(checkpoint), rows, about)
    report = read_run(config)
    assert report.main == "01_finetune"
    assert "00_distill_best" in report.names
    assert "01_finetune_best" not in report.names
    description = {checkpoint.name: checkpoint.description for checkpoint in report.checkpoints}
    assert description["01_finetune"] == "after epoch 4, the last and the best of the stage"
    assert description["00_distill"] == "after epoch 2, the last of the stage"
