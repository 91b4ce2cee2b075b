"""The cost of models: measured in a process of its own, and a row for each model of a run."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.evaluation import cost as cost_module
from mobile_sam.evaluation.cost import (
    Cost,
    ModelSpec,
    count_parameters,
    device_name,
    measure_cost,
    model_specs,
    peak_memory,
    read_model_spec,
    reset_peak_memory,
    write_costs,
)
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import to_original
from mobile_sam.system.errors import UserError
from tests.helpers.commands import ROOT
from tests.helpers.runs import tiny_settings

HEADER = (
    "checkpoint,architecture,parameters,image_encoder_parameters,gflops_encoder,gflops_decoder,"
    "encoder_ms,encoder_ms_low,encoder_ms_high,decoder_ms,decoder_ms_low,decoder_ms_high,"
    "memory_mib,device,threads,torch,img_size"
)
CPU = torch.device("cpu")


def two_teachers(output_dir: Path) -> RunConfig:
    """A run of `tiny_sam` with teachers of another and of the same architecture."""
    second = {"checkpoint": "random", "model_type": "tiny_sam"}
    return parse_config(tiny_settings(ROOT, output_dir, extra_teachers=[second]), "test")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    directory = tmp_path_factory.mktemp("costs")
    ballast = torch.ones(2**26)  # 256 MiB of this process, which are no cost of a model
    write_costs(model_specs(two_teachers(directory)), directory / "new" / "costs.csv", 3)
    assert ballast.all()
    assert [path.name for path in (directory / "new").iterdir()] == ["costs.csv"]
    return pd.read_csv(directory / "new" / "costs.csv")


def test_a_run_has_a_row_for_its_student_and_for_each_teacher(table: pd.DataFrame) -> None:
    assert ",".join(table.columns) == HEADER
    assert list(table["checkpoint"]) == ["start", "teacher", "teacher_2"]
    assert list(table["architecture"]) == ["tiny_sam", "tiny_teacher_vit", "tiny_sam"]
    assert set(table["img_size"]) == {64}


def test_equal_models_have_equal_costs(table: pd.DataFrame) -> None:
    start, teacher, second = (table.drop(columns="checkpoint").iloc[i] for i in range(3))
    assert start.equals(second)
    assert teacher["encoder_ms"] != start["encoder_ms"]


def test_rows_are_the_cost_of_what_they_name(table: pd.DataFrame) -> None:
    start, teacher, _ = table.itertuples()
    for row, model_type in ((start, "tiny_sam"), (teacher, "tiny_teacher_vit")):
        model = build_sam_model(model_type, 64)
        assert row.parameters == sum(p.numel() for p in model.parameters())
        assert row.image_encoder_parameters == count_parameters(model.image_encoder)
        assert row.memory_mib * 2**20 > 4 * row.parameters
    assert teacher.gflops_encoder > start.gflops_encoder > start.gflops_decoder > 0
    assert teacher.gflops_decoder == start.gflops_decoder


def test_times_are_positive_and_in_order(table: pd.DataFrame) -> None:
    for half in ("encoder", "decoder"):
        assert (table[f"{half}_ms_low"] > 0).all()
        assert (table[f"{half}_ms_low"] <= table[f"{half}_ms"]).all()
        assert (table[f"{half}_ms"] <= table[f"{half}_ms_high"]).all()


def test_the_machine_is_named(table: pd.DataFrame) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert set(table["device"]) == {device_name(device)} != {""}
    assert set(table["threads"]) == {torch.get_num_threads()}
    assert set(table["torch"]) == {torch.__version__}


def test_memory_is_that_of_the_model_and_grows_with_its_image(table: pd.DataFrame) -> None:
    small = table["memory_mib"][0]
    large = measure_cost(ModelSpec("tiny_sam", 512), 1).memory_mib
    assert small < 100
    # Three maps in float32 of 128 * 128 pixels and the 64 channels within a block.
    assert large > small + 3 * 4


def test_a_model_spec_is_what_the_run_trains(tmp_path: Path) -> None:
    settings = tiny_settings(ROOT, tmp_path, iou_head_depth=2, iou_head_hidden_dim=48)
    start = model_specs(parse_config(settings, "test"))["start"]
    expected = build_sam_model("tiny_sam", 64, 2, 48)
    assert count_parameters(start()) == count_parameters(expected)
    assert count_parameters(start()) != count_parameters(ModelSpec("tiny_sam", 64)())


def test_a_run_without_teachers_and_with_other_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[ModelSpec] = []
    values = {field.name: 1 for field in fields(Cost)}

    def measure(spec: ModelSpec, *_: object) -> Cost:
        measured.append(spec)
        return Cost(**values)

    monkeypatch.setattr(cost_module, "measure_cost", measure)
    config = parse_config(tiny_settings(ROOT, tmp_path, teacher_checkpoint=None), "test")
    extra = {"mine": ModelSpec("tiny_sam_se", 64), "run_other": ModelSpec("tiny_sam", 64)}
    write_costs(model_specs(config) | extra, tmp_path / "costs.csv", 5)
    table = pd.read_csv(tmp_path / "costs.csv")
    assert list(table["checkpoint"]) == ["start", "mine", "run_other"]
    assert measured == [ModelSpec("tiny_sam", 64), extra["mine"]]


def test_the_model_spec_of_weights_is_read_from_their_file(tmp_path: Path) -> None:
    drawn = ModelSpec("tiny_sam_se", 128, 2, 48)
    torch.save(to_original(drawn()), tmp_path / "weights.pt")
    assert read_model_spec(tmp_path / "weights.pt", 128) == drawn
    assert read_model_spec(tmp_path / "weights.pt", 64, "tiny_sam").model_type == "tiny_sam"


def test_parameters_are_those_of_the_published_code() -> None:
    with torch.device("meta"):
        model = build_sam_model("vit_b", 1024)
    assert count_parameters(model) == 93_735_472
    assert count_parameters(nn.Linear(5, 7)) == 5 * 7 + 7
    assert count_parameters(nn.BatchNorm2d(4)) == 8


def test_a_cost_needs_a_repeat() -> None:
    with pytest.raises(ValueError, match="repeats is 0"):
        measure_cost(ModelSpec("tiny_sam", 64), 0)


def killed() -> Sam:
    os._exit(9)


def test_a_killed_measurement_says_so() -> None:
    with pytest.raises(UserError, match="killed, usually because memory ran out"):
        measure_cost(killed, 1)


def peaks() -> tuple[int, int, int]:
    """Of this process: before 64 MiB are taken, with them, and when the peak is forgotten."""
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    torch.ones(2**24)
    with_ones = peak_memory(CPU)
    reset_peak_memory(CPU)
    return before, with_ones, peak_memory(CPU)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be forgotten on Linux alone")
def test_a_peak_is_forgotten() -> None:
    # In a process of its own: this one may have memory to spare, from which the 64 MiB come.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        before, with_ones, forgotten = process.submit(peaks).result()
    assert with_ones > before + 60 * 2**20
    assert forgotten < before + 30 * 2**20
