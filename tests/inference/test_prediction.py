"""The verb `predict`: files of prompts on one image."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobile_sam.__main__ import main
from mobile_sam.data.masks import decode
from mobile_sam.inference.loading import build_sam
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.prompt import Prompt, build_prompts, check_within
from mobile_sam.system.directories import OUTPUT_MARK, is_output
from mobile_sam.system.errors import ConfigError
from tests.helpers.images import draw_image

Predict = Callable[..., int]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_image(tmp_path_factory.mktemp("image") / "photo.png", 120, 90, seed=0)


@pytest.fixture
def predict(image: Path, tmp_path: Path, finished_weights: Path) -> Predict:
    def run(*arguments: object) -> int:
        given = ["predict", "--weights", finished_weights, "--image", image, "--img-size", 64]
        return main([str(part) for part in (*given, "--out", tmp_path / "out", *arguments)])

    return run


def files_in(directory: Path) -> list[str]:
    """Names of the files of predictions in a directory, which is marked as one of results."""
    assert is_output(directory)
    return sorted(path.name for path in directory.iterdir() if path.name != OUTPUT_MARK)


def test_a_box_gives_the_mask_of_the_predictor(
    predict: Predict, image: Path, tmp_path: Path, finished_weights: Path
) -> None:
    assert predict("--box", 10, 12, 80, 60) == 0
    out = tmp_path / "out"
    assert files_in(out) == ["photo.json", "photo_mask_1.png", "photo_overlay.jpg"]
    predictor = SamPredictor(build_sam(finished_weights, 64))
    predictor.set_image(np.asarray(Image.open(image)))
    wanted = predictor.predict(box=np.array([10, 12, 80, 60]), multimask_output=False)
    written = np.asarray(Image.open(out / "photo_mask_1.png"))
    np.testing.assert_array_equal(written, wanted.masks[0] * np.uint8(255))
    told = json.loads((out / "photo.json").read_text())
    (mask,) = told["masks"]
    assert mask["file"] == "photo_mask_1.png"
    assert mask["box"] == [10, 12, 80, 60]
    assert mask["predicted_iou"] == pytest.approx(wanted.predicted_iou[0])
    assert mask["area"] == wanted.masks[0].sum()
    code = mask["segmentation"]["counts"].encode()
    np.testing.assert_array_equal(decode(code, (90, 120)), wanted.masks[0])
    assert told["size"] == [90, 120]
    assert told["model"]["img_size"] == 64
    assert Image.open(out / "photo_overlay.jpg").size == (120, 90)


def test_points_on_and_beside_the_thing_are_one_prompt(
    predict: Predict, tmp_path: Path, image: Path, finished_weights: Path
) -> None:
    assert predict("--point", 30, 30, "--background", 5, 5, "--multimask") == 0
    told = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert len(told["masks"]) == 3
    scores = [mask["predicted_iou"] for mask in told["masks"]]
    assert scores == sorted(scores, reverse=True)
    predictor = SamPredictor(build_sam(finished_weights, 64))
    predictor.set_image(np.asarray(Image.open(image)))
    wanted = predictor.predict(np.array([[30, 30], [5, 5]]), np.array([1, 0]))
    assert scores == pytest.approx(sorted(wanted.predicted_iou, reverse=True))


def test_fewer_masks_leave_none_of_before(predict: Predict, tmp_path: Path) -> None:
    assert predict("--point", 30, 30, "--multimask") == 0
    assert (tmp_path / "out" / "photo_mask_3.png").exists()
    assert predict("--box", 1, 1, 50, 50, "--box", 20, 20, 80, 80) == 0
    masks = sorted(path.name for path in (tmp_path / "out").glob("*_mask_*"))
    assert masks == ["photo_mask_1.png", "photo_mask_2.png"]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_images_of_one_name_have_files_of_their_own(
    predict: Predict, tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In two directories, and with two suffixes."""
    others = [tmp_path / "b" / "photo.png", tmp_path / "photo.jpg"]
    for seed, other in enumerate(others, start=1):
        other.parent.mkdir(exist_ok=True)
        draw_image(other, 100, 80, seed=seed)
    assert predict("--point", 30, 30, "--multimask") == 0
    first, out = contents(tmp_path / "out"), tmp_path / "out"
    for number, other in enumerate(others, start=2):
        capsys.readouterr()
        assert predict("--box", 1, 1, 50, 50, "--image", other) == 0
        names = [f"photo_{number}{end}" for end in ("_mask_1.png", "_overlay.jpg", ".json")]
        assert capsys.readouterr().out.split() == [str(out / name) for name in names]
        assert json.loads((out / names[-1]).read_text())["image"] == str(other)
    # Asked again, each image has the same names, and the others' files stay.
    for other in others:
        assert predict("--box", 1, 1, 60, 60, "--image", other) == 0
    assert {name: (out / name).read_bytes() for name in first} == first
    assert len(files_in(out)) == 5 + 2 * 3


@pytest.mark.parametrize("name", ["photo.json", "photo_mask_1.png", "photo_overlay.jpg"])
def test_a_file_of_somebody_else_is_not_replaced(
    predict: Predict, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert predict("--box", 1, 1, 50, 50) == 0
    for path in (tmp_path / "out").glob("photo*"):
        path.unlink()
    (tmp_path / "out" / name).write_text('{"my": "own"}')
    assert predict("--box", 1, 1, 50, 50) == 1
    assert f"{tmp_path / 'out' / name}: predict did not write this file" in caplog.text
    assert files_in(tmp_path / "out") == [name]
    assert (tmp_path / "out" / name).read_text() == '{"my": "own"}'


def test_a_prediction_that_was_killed_is_completed(predict: Predict, tmp_path: Path) -> None:
    assert predict("--box", 1, 1, 50, 50) == 0
    (tmp_path / "out" / "photo.json").unlink()  # the last to get its place
    assert predict("--box", 1, 1, 50, 50) == 0
    assert len(files_in(tmp_path / "out")) == 3


def test_a_directory_of_other_files_is_refused(
    predict: Predict, tmp_path: Path, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert predict("--box", 1, 1, 50, 50, "--out", image.parent) == 1
    assert f"--out {image.parent}: the directory contains the input {image}" in caplog.text
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert predict("--box", 1, 1, 50, 50) == 1
    assert "the directory holds other files, such as notes.txt" in caplog.text
    assert contents(tmp_path / "out") == {"notes.txt": b"mine"}


def test_a_directory_of_predictions_without_the_mark_is_used(
    predict: Predict, tmp_path: Path
) -> None:
    """As versions before the mark wrote it."""
    assert predict("--box", 1, 1, 50, 50, "--box", 1, 1, 9, 9) == 0
    told = tmp_path / "out" / "photo.json"
    about = json.loads(told.read_text())
    told.write_text(json.dumps({k: v for k, v in about.items() if k not in _NEW}))
    (tmp_path / "out" / OUTPUT_MARK).unlink()
    assert predict("--box", 1, 1, 50, 50) == 0
    assert files_in(tmp_path / "out") == ["photo.json", "photo_mask_1.png", "photo_overlay.jpg"]


_NEW = {"image_path", "overlay"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "there is no prompt"),
        (("--background", 3, 3), "there is no prompt"),
        (("--box", 50, 10, 40, 60), "it has no area"),
        (("--box", 1, 1, 9, 9, "--box", 2, 2, 8, 8, "--point", 3, 3), "with 2 boxes"),
        (("--point", 130, 10), "the image is 120 x 90 pixels"),
        (("--box", 200, 10, 240, 60), "the image is 120 x 90 pixels"),
        (("--point", 3, 3, "--device", "nowhere"), "--device nowhere"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(
    predict: Predict,
    arguments: tuple[object, ...],
    sentence: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert predict(*arguments) == 1
    assert sentence in caplog.text
    assert not (tmp_path / "out").exists()


def test_prompts_hold_what_was_typed() -> None:
    assert build_prompts([[1, 2, 3, 4]], [[5, 6]], [[7, 8]]) == [
        Prompt((1, 2, 3, 4), ((5, 6), (7, 8)), (1, 0))
    ]
    assert build_prompts([[1, 2, 3, 4], [5, 6, 7, 8]], [], []) == [
        Prompt((1, 2, 3, 4)),
        Prompt((5, 6, 7, 8)),
    ]
    check_within([Prompt((-5, -5, 300, 300), ((120, 90),), (1,))], (90, 120))
    with pytest.raises(ConfigError, match="point -1 0"):
        check_within([Prompt(None, ((-1, 0),), (1,))], (90, 120))
