"""The predictor of a bundle beside the one of torch, and in an interpreter that has no torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import nms

import mobile_sam.export.predictor as bundle_code
from mobile_sam.coordinates import upscale_logits as with_torch
from mobile_sam.data.transforms import PIXEL_MEAN, PIXEL_STD
from mobile_sam.data.transforms import image_to_model_frame as with_pillow
from mobile_sam.export.predictor import (
    BundleError,
    OnnxPredictor,
    box_nms,
    image_to_model_frame,
    resize,
    upscale_logits,
)
from mobile_sam.inference.automatic_masks import SamAutomaticMaskGenerator
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.models.sam import Sam

SIZES = [(64, 64), (48, 64), (37, 91), (300, 201), (16, 9), (129, 1000), (1, 5)]
POINTS = {"point_coords": np.array([[30.5, 20.0], [70.0, 50.0]]), "point_labels": np.array([1, 0])}
BOX = {"box": np.array([10.0, 12.0, 80.0, 60.0])}
MASK = {"mask_input": np.random.default_rng(1).normal(0, 8, (1, 16, 16)).astype(np.float32)}


def pixels(height: int, width: int) -> np.ndarray:
    """Noise at the extremes: what lets roundings show."""
    draw = np.random.default_rng(height * 1000 + width)
    return np.where(
        draw.random((height, width, 3)) < 0.3, 255, draw.integers(0, 256, (height, width, 3))
    ).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(64, 64), (1024, 683)])
def test_resized_bytes_are_those_of_pillow(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = pixels(*size)
    wanted = Image.fromarray(image).resize(target[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(image, target), np.asarray(wanted))


@pytest.mark.parametrize("size", SIZES)
def test_a_distorted_image_is_a_level_off_at_most(size: tuple[int, int]) -> None:
    """Pillow 13 does columns first where that is less work; frames of models keep the shape."""
    image = pixels(*size)
    wanted = Image.fromarray(image).resize((300, 7), Image.Resampling.BILINEAR)
    difference = resize(image, (7, 300)).astype(int) - np.asarray(wanted)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_the_model_frame_is_that_of_training(size: tuple[int, int]) -> None:
    image = pixels(*size)
    frame = image_to_model_frame(image, 128, PIXEL_MEAN, PIXEL_STD)
    np.testing.assert_array_equal(frame, with_pillow(image, 128).numpy())


@pytest.mark.parametrize("size", SIZES)
def test_upscaled_logits_are_those_of_torch(size: tuple[int, int]) -> None:
    low_res = np.random.default_rng(2).normal(0, 10, (3, 32, 32)).astype(np.float32)
    wanted = with_torch(torch.from_numpy(low_res)[None], 128, size)[0].numpy()
    np.testing.assert_allclose(upscale_logits(low_res, 128, size), wanted, atol=1e-4)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("prompt", [POINTS, BOX, POINTS | BOX, BOX | MASK, MASK, {}])
def test_answers_are_those_of_the_model(
    bundle: Path, model: Sam, prompt: dict[str, Any], multimask: bool
) -> None:
    ours, onnx = SamPredictor(model), OnnxPredictor(bundle, threads=1)
    image = pixels(75, 100)
    for predictor in (ours, onnx):
        predictor.set_image(image)
    wanted = ours.predict(**prompt, multimask_output=multimask, return_logits=True)
    found = onnx.predict(**prompt, multimask_output=multimask, return_logits=True)
    assert found[0].shape == (3 if multimask else 1, 75, 100)
    assert np.ptp(found[0]) > 0.01
    for array, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(array, other, atol=1e-4)
    masks = onnx.predict(**prompt, multimask_output=multimask)[0]
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks, found[0] > 0)


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> OnnxPredictor:
    """With an image of (H, W) (75, 100)."""
    predictor = OnnxPredictor(bundle, threads=1)
    predictor.set_image(pixels(75, 100))
    return predictor


def test_a_stored_embedding_gives_the_same_masks(
    bundle: Path, predictor: OnnxPredictor, tmp_path: Path
) -> None:
    np.save(tmp_path / "embedding.npy", predictor.get_image_embedding())
    other = OnnxPredictor(bundle, threads=1)
    other.set_image_embedding(np.load(tmp_path / "embedding.npy"), (75, 100))
    for ours, expected in zip(other.predict(**BOX), predictor.predict(**BOX), strict=True):
        np.testing.assert_array_equal(ours, expected)
    with pytest.raises(ValueError, match=r"of shape \(32, 4, 4\); it must be \(1, C, 4, 4\)"):
        other.set_image_embedding(np.zeros((32, 4, 4)), (75, 100))


BATCHES = {
    "boxes": {"boxes": np.array([[10.0, 12.0, 80.0, 60.0], [0, 0, 99, 74], [50, 20, 60, 70]])},
    "points": {
        "point_coords": np.array(
            [[[30.5, 20.0], [70.0, 50.0]], [[1, 2], [3, 4]], [[90, 9], [5, 7]]]
        ),
        "point_labels": np.array([[1, 0], [1, 1], [0, 1]]),
    },
    "masks": {"mask_input": np.stack([MASK["mask_input"] * factor for factor in (1, -1, 0.1)])},
}


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kinds", [["boxes"], ["points"], ["masks"], [*BATCHES]])
def test_several_prompts_are_answered_as_one_by_one(
    predictor: OnnxPredictor, kinds: list[str], multimask: bool
) -> None:
    batch = {name: value for kind in kinds for name, value in BATCHES[kind].items()}
    found = predictor.predict_batch(**batch, multimask_output=multimask, return_logits=True)
    assert found[0].shape == (3, 3 if multimask else 1, 75, 100)
    for number in range(3):
        one = {name.replace("boxes", "box"): value[number] for name, value in batch.items()}
        alone = predictor.predict(**one, multimask_output=multimask, return_logits=True)
        for together, expected in zip(found, alone, strict=True):
            np.testing.assert_allclose(together[number], expected, atol=1e-5)
    masks = predictor.predict_batch(**batch, multimask_output=multimask)[0]
    np.testing.assert_array_equal(masks, found[0] > 0)


def test_several_prompts_are_those_of_the_model(model: Sam, predictor: OnnxPredictor) -> None:
    ours = SamPredictor(model)
    ours.set_image(pixels(75, 100))
    boxes = torch.from_numpy(ours.transform.apply_boxes(BATCHES["boxes"]["boxes"], (75, 100)))
    expected = ours.predict_torch(None, None, boxes.float(), return_logits=True)
    found = predictor.predict_batch(**BATCHES["boxes"], return_logits=True)
    for array, tensor in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, tensor, atol=1e-4)


EVERY = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


@pytest.mark.parametrize("thresholds", [False, True])
def test_automatic_masks_are_those_of_the_generator(
    model: Sam, predictor: OnnxPredictor, thresholds: bool
) -> None:
    """Random weights make a fine grain all over the image, whose boxes are nearly alike."""
    generator = SamAutomaticMaskGenerator(
        model, points_per_side=4, stability_score_offset=0.05, **EVERY
    )
    options = {"points_per_side": 4, "stability_score_offset": 0.05} | EVERY
    if thresholds:  # between the values of two masks, and boxes that differ in a pixel
        records = generator.generate(pixels(75, 100))
        for option, key in (
            ("pred_iou_thresh", "predicted_iou"),
            ("stability_score_thresh", "stability_score"),
        ):
            values = sorted({round(record[key], 4) for record in records})
            options[option] = (values[len(values) // 3] + values[len(values) // 3 - 1]) / 2
            setattr(generator, option, options[option])
        generator.box_nms_thresh = options["box_nms_thresh"] = 0.995
    expected = generator.generate(pixels(75, 100))
    found = predictor.automatic_masks(**options)
    assert 1 <= len(found) < 48 if thresholds else len(found) == 48
    for ours, other in zip(found, expected, strict=True):
        assert sorted(ours) == sorted(other)
        assert ours["segmentation"].dtype == bool
        assert (ours["segmentation"] != other["segmentation"]).sum() <= 1
        assert ours["area"] == ours["segmentation"].sum()
        for key in ("predicted_iou", "stability_score"):
            assert ours[key] == pytest.approx(other[key], abs=1e-3, nan_ok=True)
        for key in ("point_coords", "crop_box"):
            assert ours[key] == other[key]
        np.testing.assert_allclose(ours["bbox"], other["bbox"], atol=1)


def test_points_are_asked_a_few_at_a_time(predictor: OnnxPredictor) -> None:
    options = EVERY | {"points_per_side": 5}
    few, many = (predictor.automatic_masks(**options, points_per_batch=n) for n in (2, 25))
    assert len(few) == len(many) == 75
    scores = [record["predicted_iou"] for record in few]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([record["predicted_iou"] for record in many], abs=1e-5)


def test_boxes_that_overlap_a_better_one_are_left_out() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30], [5, 5, 5, 5], [5, 5, 5, 5]])
    scores = np.array([0.5, 0.9, 0.7, 0.1, 0.1])
    for box_iou, kept in ((0.5, [1, 2, 3, 4]), (0.95, [1, 2, 0, 3, 4])):
        found = box_nms(boxes.astype(np.float32), scores, box_iou)
        assert found == kept
        other = nms(torch.from_numpy(boxes).double(), torch.from_numpy(scores), box_iou)
        assert other.tolist() == kept


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_openvino_gives_the_same_masks(bundle: Path, form: str) -> None:
    pytest.importorskip("openvino")
    found = []
    for runtime in ("onnxruntime", "openvino"):
        predictor = OnnxPredictor(bundle, form, threads=1, runtime=runtime)
        predictor.set_image(pixels(75, 100))
        found.append(predictor.predict(**BOX)[0])
    assert 0.01 < found[0].mean() < 0.99
    assert (found[0] == found[1]).mean() > (0.9999 if form == "float32" else 0.97)


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are of Linux here")
def test_signals_are_handled_after_openvino(bundle: Path) -> None:
    """Once two predictors that went in the order they came left an unmapped signal stack."""
    pytest.importorskip("openvino")
    code = (
        "import faulthandler, signal, subprocess, sys\n"
        "from mobile_sam.export.predictor import OnnxPredictor\n"
        "faulthandler.enable()\n"
        "signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "made = [OnnxPredictor(sys.argv[1], threads=1, runtime='openvino') for _ in range(2)]\n"
        "while made:\n"
        "    made.pop(0)\n"
        "subprocess.run(['sleep', '0.1'])\n"
        "print('alive', flush=True)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code, bundle], text=True) == "alive\n"


def test_a_runtime_of_another_name_is_refused(bundle: Path) -> None:
    with pytest.raises(ValueError, match="'onnxruntime' or 'openvino'"):
        OnnxPredictor(bundle, runtime="tensorrt")


def test_the_order_of_colours_is_told(bundle: Path) -> None:
    predictor, image = OnnxPredictor(bundle), pixels(20, 30)
    predictor.set_image(image)
    rgb = predictor.get_image_embedding()
    predictor.set_image(np.ascontiguousarray(image[..., ::-1]), "BGR")
    np.testing.assert_array_equal(predictor.get_image_embedding(), rgb)
    predictor.set_image(image, "BGR")
    assert np.abs(predictor.get_image_embedding() - rgb).max() > 1e-3


def test_an_image_of_another_type_is_refused(bundle: Path) -> None:
    predictor = OnnxPredictor(bundle)
    for image in (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8)):
        with pytest.raises(ValueError, match=r"it must be uint8, \(H, W, 3\)"):
            predictor.set_image(image)
    with pytest.raises(ValueError, match="'RGB' or 'BGR'"):
        predictor.set_image(np.zeros((8, 8, 3), np.uint8), "HSV")


def test_prompts_that_make_no_sense_are_refused(bundle: Path) -> None:
    predictor = OnnxPredictor(bundle)
    with pytest.raises(RuntimeError, match="call set_image first"):
        predictor.predict(**BOX)
    predictor.set_image(pixels(20, 30))
    with pytest.raises(ValueError, match="give both or neither"):
        predictor.predict(point_coords=[[1, 2]])
    with pytest.raises(ValueError, match=r"of one prompt \(N, 2\) and \(N,\)"):
        predictor.predict(point_coords=[[1, 2]], point_labels=[1, 0])
    with pytest.raises(ValueError, match=r"of one prompt \(1, 16, 16\)"):
        predictor.predict(mask_input=np.zeros((1, 8, 8)))
    with pytest.raises(ValueError, match=r"point_labels: \[\[4\]\]; 1 is foreground"):
        predictor.predict(point_coords=[[1, 2]], point_labels=[4])
    with pytest.raises(ValueError, match=r"boxes: of shape \(1, 8\)"):
        predictor.predict(box=np.zeros((2, 4)))
    with pytest.raises(ValueError, match="points_per_side, points_per_batch: each must be 1"):
        predictor.automatic_masks(points_per_side=0)
    with pytest.raises(ValueError, match="boxes of 2, mask_input of 3 prompts; give as many"):
        predictor.predict_batch(boxes=np.zeros((2, 4)), mask_input=np.zeros((3, 1, 16, 16)))


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    content = bytearray((copy / "decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "decoder.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"decoder\.onnx: not the file that was exported"):
        OnnxPredictor(copy)
    (copy / "encoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"encoder\.onnx: there is no such file"):
        OnnxPredictor(copy)
    about = json.loads((copy / "bundle.json").read_text())
    for text, message in (
        (json.dumps(about | {"format": 9}), "of format 9"),
        (json.dumps({k: v for k, v in about.items() if k != "sha256"}), "sha256 missing"),
        ("{", "damaged"),
    ):
        (copy / "bundle.json").write_text(text)
        with pytest.raises(BundleError, match=message):
            OnnxPredictor(copy)
    (copy / "bundle.json").unlink()
    with pytest.raises(BundleError, match="no such file"):
        OnnxPredictor(copy)
    with pytest.raises(BundleError, match="no form 'int4'; there are float16, float32, int8"):
        OnnxPredictor(bundle, "int4")


WITHOUT_TORCH = """
import sys
import numpy as np
for name in ("torch", "PIL", "mobile_sam", "onnx"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is there")
from predictor import OnnxPredictor
predictor = OnnxPredictor(".")
predictor.set_image(np.load("image.npy"))
np.save("masks.npy", predictor.predict(box=[10.0, 12.0, 80.0, 60.0])[0])
predictor.automatic_masks(points_per_side=2)
"""


def test_a_bundle_works_where_there_is_no_torch(bundle: Path, model: Sam, tmp_path: Path) -> None:
    python = interpreter_with(["numpy", "onnxruntime"], tmp_path / "venv")
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    image = pixels(75, 100)
    np.save(copy / "image.npy", image)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, "-c", WITHOUT_TORCH]
    result = subprocess.run(
        command, cwd=copy, env=clean, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    predictor = SamPredictor(model)
    predictor.set_image(image)
    masks = np.load(copy / "masks.npy")
    assert 0 < masks.mean() < 1
    assert (masks == predictor.predict(**BOX)[0]).mean() > 0.9999


def interpreter_with(packages: list[str], directory: Path) -> Path:
    """A virtual environment that sees these packages of this one, and no other."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    site = next(directory.glob("lib/python*/site-packages"))
    for name in packages:
        for part in (name, f"{name}.libs"):  # shared libraries lie beside the package
            source = Path(np.__file__).parents[1] / part
            if source.is_dir():
                (site / part).symlink_to(source)
    return directory / "bin" / "python"


@pytest.mark.parametrize("module", ["mobile_sam.export.predictor", "predictor"])
def test_onnxruntime_is_told_not_to_report_to_its_maker(module: str, tmp_path: Path) -> None:
    """It reads the variable when it is imported; its threads cannot be counted, for in a CI
    (known by the CI's variables) it does not report anyway."""
    (tmp_path / "onnxruntime.py").write_text(
        "import os; raise SystemExit(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    )

    def seen(**setting: str) -> str:
        clean = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        code = Path(bundle_code.__file__ or "").parent
        path = f"{tmp_path}:{code}:{clean.get('PYTHONPATH', '')}"
        command = [sys.executable, "-c", f"import {module}"]
        environment = clean | setting | {"PYTHONPATH": path}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        ).stderr.strip()

    assert seen() == "1"
    assert seen(ORT_DISABLE_TELEMETRY="0") == "0", "who asks for reports gets them"
