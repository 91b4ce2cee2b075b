"""Float16 and int8: smaller, nearly equal, and measured."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from mobile_sam.config.run import RunConfig
from mobile_sam.data.images import read_image
from mobile_sam.data.index.table import DatasetError
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.export.calibration import (
    EvaluationImage,
    ExportImages,
    images_from_directory,
    images_from_index,
)
from mobile_sam.export.precision_variants import measure_iou_loss, write_int8
from mobile_sam.export.predictor import OnnxPredictor
from mobile_sam.paths import RunPaths
from tests.helpers.onnx_sessions import session

Make = Callable[..., RunConfig]


def embeddings(bundle: Path, name: str, image: Path) -> np.ndarray:
    frame = image_to_model_frame(read_image(image), 64)[None].numpy()
    return session(bundle / name).run(None, {"images": frame})[0]


@pytest.mark.parametrize(("form", "apart"), [("float16", 0.01), ("int8", 0.25)])
def test_a_form_is_smaller_and_nearly_equal(
    bundle: Path, unlabelled: Path, form: str, apart: float
) -> None:
    whole, small = bundle / "encoder.onnx", bundle / f"encoder_{form}.onnx"
    assert small.stat().st_size < 0.85 * whole.stat().st_size  # most of the tiny model is names
    for image in images_from_directory(unlabelled, 4).calibration:
        exact, found = (embeddings(bundle, path.name, image.path) for path in (whole, small))
        assert found.dtype == np.float32
        difference = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert 0 < difference < apart


def test_only_products_with_weights_are_in_8_bits(bundle: Path) -> None:
    graph = onnx.load(bundle / "encoder_int8.onnx").graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    kinds: Counter[tuple[str, bool]] = Counter()
    for node in graph.node:
        if node.op_type in {"Conv", "MatMul"}:
            of_weights = made_by.get(node.input[1]) == "DequantizeLinear"
            assert (made_by.get(node.input[0]) == "DequantizeLinear") == of_weights
            kinds[node.op_type, of_weights] += 1
    assert kinds["Conv", True] > 10
    assert kinds["MatMul", True] > 4
    assert kinds["Conv", False] == 0
    assert kinds["MatMul", False] > 1  # attention


def test_sums_of_products_cannot_overflow_where_there_is_no_vnni(bundle: Path) -> None:
    graph = onnx.load(bundle / "encoder_int8.onnx").graph
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    ]
    largest = [int(np.abs(weight.astype(int)).max()) for weight in weights if weight.any()]
    assert len(largest) > 10
    # Two products of 8 bits without a sign are added in 16 bits with one.
    assert 60 < max(largest) <= 64


def test_the_images_fix_the_ranges(bundle: Path, unlabelled: Path, tmp_path: Path) -> None:
    image = sorted(unlabelled.iterdir())[0]
    grey = [np.zeros((1, 3, 64, 64), np.float32)]
    write_int8(bundle / "encoder.onnx", tmp_path / "grey.onnx", grey)
    exact = embeddings(bundle, "encoder.onnx", image)
    good = embeddings(bundle, "encoder_int8.onnx", image)
    bad = embeddings(tmp_path, "grey.onnx", image)
    assert np.abs(bad - exact).mean() > 2 * np.abs(good - exact).mean()
    assert [path.name for path in tmp_path.iterdir()] == ["grey.onnx"]


def test_what_forms_lose_is_in_the_bundle(bundle: Path) -> None:
    about = json.loads((bundle / "bundle.json").read_text())
    lost = about["iou"]
    assert set(lost) == {"float16", "int8"}
    for row in lost.values():
        assert row["prompts"] == 2 * 9  # points of a grid on each of two images
        assert 0 <= row["lowest_with_float32"] <= row["with_float32"] <= 1
        assert "miou_lost" not in row
    assert lost["float16"]["with_float32"] > 0.98


def test_the_loss_is_that_of_iou_with_the_segments(tiny: Make, bundle: Path) -> None:
    config: RunConfig = tiny()
    record = images_from_index(RunPaths(config).index, 2).evaluation[0].record
    assert record is not None
    row = measure_iou_loss(bundle, ["int8"], [EvaluationImage(record.path, record)])["int8"]
    found = []
    for form in ("float32", "int8"):
        predictor = OnnxPredictor(bundle, form)
        predictor.set_image(read_image(record.path))
        overlaps = []
        for segment in record.segments[:4]:
            mask = predictor.predict(box=segment.box, multimask_output=False)[0][0]
            truth = record.mask(segment)
            overlaps.append((mask & truth).sum() / (mask | truth).sum())
        found.append(np.mean(overlaps))
    assert row["miou"] == pytest.approx(found[1], abs=1e-5)
    assert row["miou_lost"] == pytest.approx(found[0] - found[1], abs=1e-5)


def test_images_calibrate_or_evaluate(unlabelled: Path) -> None:
    examples = images_from_directory(unlabelled, 2)
    evaluation = [image.path for image in examples.evaluation]
    assert len(examples.calibration) == len(evaluation) == 2
    assert not {image.path for image in examples.calibration} & set(evaluation)
    assert [frame.shape for frame in examples.frames(64)] == [(1, 3, 64, 64)] * 2


def test_a_single_image_does_both(unlabelled: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(sorted(unlabelled.iterdir())[0].read_bytes())
    assert images_from_directory(tmp_path, 3) == ExportImages(
        [EvaluationImage(image)], [EvaluationImage(image)]
    )


def test_images_of_a_run_are_those_of_its_splits(tiny: Make) -> None:
    examples = images_from_index(RunPaths(tiny()).index, 4)
    assert len(examples.calibration) == 4
    assert {image.path.parents[1].name for image in examples.calibration} == {"train"}
    assert {image.path.parents[1].name for image in examples.evaluation} == {"val"}


def test_a_directory_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no image"):
        images_from_directory(tmp_path, 3)
