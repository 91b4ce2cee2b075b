"""Exported files beside the model, for any number of images, prompts and points."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from mobile_sam.__main__ import main
from mobile_sam.config.run import RunConfig
from mobile_sam.export import bundle as bundles
from mobile_sam.export import onnx_export
from mobile_sam.export.bundle import write_bundle
from mobile_sam.export.onnx_export import DECODER_INPUTS, DECODER_OUTPUTS, OnnxDecoder
from mobile_sam.export.predictor import OnnxPredictor, same_signal_stack
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import to_original
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import UserError
from tests.helpers.commands import verb
from tests.helpers.onnx_sessions import session

Make = Callable[..., RunConfig]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_encoder_takes_any_number_of_images(bundle: Path, model: Sam, batch: int) -> None:
    images = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(batch))
    found = session(bundle / "encoder.onnx").run(None, {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, model.image_encoder(images).numpy(), atol=1e-4)


@pytest.mark.parametrize(("prompts", "points"), [(1, 0), (1, 1), (1, 7), (2, 1), (3, 0), (9, 2)])
def test_the_decoder_takes_any_number_of_prompts_and_points(
    bundle: Path, model: Sam, prompts: int, points: int
) -> None:
    draw = torch.Generator().manual_seed(prompts + 10 * points)
    given = (
        torch.randn(1, 32, 4, 4, generator=draw),
        torch.rand(prompts, points, 2, generator=draw) * 64,
        torch.randint(-1, 4, (prompts, points), generator=draw).float(),
        torch.randn(prompts, 1, 16, 16, generator=draw),
        (torch.rand(prompts, generator=draw) < 0.5).float(),
    )
    arrays = {name: t.numpy() for name, t in zip(DECODER_INPUTS, given, strict=True)}
    found = session(bundle / "decoder.onnx").run(list(DECODER_OUTPUTS), arrays)
    assert found[0].shape == (prompts, 4, 16, 16)
    for array, tensor in zip(found, OnnxDecoder(model)(*given), strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), atol=1e-4)


def test_files_are_of_the_opset_that_the_bundle_says(bundle: Path) -> None:
    about = json.loads((bundle / "bundle.json").read_text())
    for files in about["forms"].values():
        for name in files.values():
            content = onnx.load(bundle / name)
            onnx.checker.check_model(content)
            assert {e.version for e in content.opset_import if not e.domain} == {about["opset"]}


def test_openvino_reads_the_same_files(bundle: Path, model: Sam) -> None:
    openvino = pytest.importorskip("openvino")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    with same_signal_stack():
        encoder, decoder = (
            openvino.Core().compile_model(bundle / name, "CPU", exact)
            for name in ("encoder.onnx", "decoder.onnx")
        )
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    embeddings = encoder(images.numpy())[0]
    np.testing.assert_allclose(embeddings, model.image_encoder(images).numpy(), atol=1e-4)
    boxes = np.array([[[5, 5], [30, 40]], [[20, 10], [60, 60]]], dtype=np.float32)
    labels, mask = np.full((2, 2), (2, 3), np.float32), np.zeros((2, 1, 16, 16), np.float32)
    given = (embeddings[:1], boxes, labels, mask, np.zeros(2, np.float32))
    found = decoder(dict(zip(DECODER_INPUTS, given, strict=True)))
    wanted = OnnxDecoder(model)(*map(torch.from_numpy, given))
    for name, tensor in zip(DECODER_OUTPUTS, wanted, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), atol=1e-4)


def copied(bundle: Path) -> Callable[[Sam, Path], dict[str, float]]:
    """Stands for `export_onnx`: files that were exported before."""

    def copy(_: Sam, directory: Path) -> dict[str, float]:
        for name in ("encoder.onnx", "decoder.onnx"):
            shutil.copyfile(bundle / name, directory / name)
        return {}

    return copy


def test_a_file_that_differs_from_the_model_is_no_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build_sam_model("tiny_sam", 64, seed=4).eval().requires_grad_(False)
    copy = copied(bundle)

    def write(*arguments: Any) -> None:
        copy(other, arguments[-1].parent)

    monkeypatch.setattr(onnx_export, "_write", write)
    with pytest.raises(UserError, match=r"image_embeddings of onnxruntime differs .*\(1, 3, 64"):
        write_bundle(other, tmp_path / "new", {})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_bundle_that_was_there(
    bundle: Path, model: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path(shutil.copytree(bundle, tmp_path / "bundle"))

    def fail(*_: Any) -> None:
        raise UserError("no room")

    monkeypatch.setattr(bundles, "export_onnx", fail)
    with pytest.raises(UserError, match="no room"):
        write_bundle(model, there, {})
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (there / "encoder_int8.onnx").is_file()


def test_a_bundle_takes_the_place_of_one_that_is_there(
    bundle: Path, model: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    monkeypatch.setattr(bundles, "export_onnx", copied(bundle))
    write_bundle(model, there, {"weights": "new"})
    assert not (there / "encoder_int8.onnx").exists()
    assert json.loads((there / "bundle.json").read_text())["source"] == {"weights": "new"}


def test_what_is_no_bundle_is_left_alone(model: Sam, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.touch()
    for target in (tmp_path, thesis):
        with pytest.raises(UserError, match="it contains other files; give another directory"):
            write_bundle(model, target, {})
    assert list(tmp_path.iterdir()) == [thesis]


def test_a_missing_package_is_named(
    model: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        onnx_export, "find_spec", lambda name: None if name == "onnx" else there(name)
    )
    with pytest.raises(UserError, match=r"onnx is not installed; run `pip install -e '.\[onnx"):
        write_bundle(model, tmp_path / "bundle", {})


def test_the_verb_writes_a_bundle_of_a_run(
    bundle: Path,
    model: Sam,
    tiny: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = tiny(mask_threshold=0.25)
    paths = RunPaths(config)
    paths.run.mkdir(parents=True)
    paths.settings.write_text(config.model_dump_json(exclude={"schema_file"}))
    target = tmp_path / "bundle"
    monkeypatch.setattr(bundles, "export_onnx", copied(bundle))
    command = ["export", "--config", str(paths.settings), "--onnx", str(target), "--int8"]
    assert main(command) == 1
    assert "weights.pt: there is no such file; run `export` without --onnx first" in caplog.text
    torch.save(to_original(model), paths.weights)
    assert main(command) == 0, caplog.text
    assert "with float32" in capsys.readouterr().out
    about = json.loads((target / "bundle.json").read_text())
    assert about["source"]["weights"] == str(paths.weights)
    assert about["mask_threshold"] == 0.25
    assert {"prompts", "with_float32", "miou", "miou_lost"} <= set(about["iou"]["int8"])
    assert OnnxPredictor(target, "int8").mask_threshold == 0.25


@pytest.mark.long
def test_the_verb_writes_a_bundle_of_a_file(model: Sam, unlabelled: Path, tmp_path: Path) -> None:
    torch.save(to_original(model), tmp_path / "any.pt")
    options = ["--img-size", "64", "--float16", "--int8", "--images", unlabelled]
    command = ["export", "--weights", tmp_path / "any.pt", "--onnx", tmp_path / "bundle", *options]
    result = verb(*command)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == [
        *("float32", "float16", "int8")
    ]
    predictor = OnnxPredictor(tmp_path / "bundle", "int8")
    predictor.set_image(np.zeros((30, 40, 3), np.uint8))
    assert predictor.predict(box=[5, 5, 20, 20])[0].shape == (3, 30, 40)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "need --onnx DIRECTORY"),
        (["--onnx", "b", "--int8"], "need images for evaluation"),
        (["--onnx", "b"], "a.pt: there is no such file"),
        (["--onnx", "b", "--calibration-images", "0"], "must be at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    there = [] if "no such file" in message else [tmp_path / "a.pt"]
    for path in there:
        path.write_bytes(b"weights")
    assert main(["export", "--weights", "a.pt", *arguments]) == 1
    assert message in caplog.text
    assert list(tmp_path.iterdir()) == there


@pytest.mark.long
@pytest.mark.parametrize("name", ["tiny_sam_se", "tiny_teacher_vit", "timm/repvit_m0_9"])
def test_each_family_of_encoders_can_be_exported(name: str, tmp_path: Path) -> None:
    model = build_sam_model(name, 64).eval().requires_grad_(False)
    differences = onnx_export.export_onnx(model, tmp_path)
    assert set(differences) == {"encoder.onnx", "decoder.onnx"}
    assert 0 < max(differences.values()) < 1e-3
