"""The verb `predict`: files of prompts on one image."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobile_sam.__main__ import main
from mobile_sam.config import ConfigError
from mobile_sam.data.masks import decode
from mobile_sam.inference.loading import build_sam
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.prompt import Prompt, check_within, prompts_of
from tests.conftest import draw_image

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


def test_a_box_gives_the_mask_of_the_predictor(
    predict: Predict, image: Path, tmp_path: Path, finished_weights: Path
) -> None:
    assert predict("--box", 10, 12, 80, 60) == 0
    out = tmp_path / "out"
    names = sorted(path.name for path in out.iterdir())
    assert names == ["photo.json", "photo_mask_1.png", "photo_overlay.jpg"]
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "nothing is asked"),
        (("--background", 3, 3), "nothing is asked"),
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
    assert prompts_of([[1, 2, 3, 4]], [[5, 6]], [[7, 8]]) == [
        Prompt((1, 2, 3, 4), ((5, 6), (7, 8)), (1, 0))
    ]
    assert prompts_of([[1, 2, 3, 4], [5, 6, 7, 8]], [], []) == [
        Prompt((1, 2, 3, 4)),
        Prompt((5, 6, 7, 8)),
    ]
    check_within([Prompt((-5, -5, 300, 300), ((120, 90),), (1,))], (90, 120))
    with pytest.raises(ConfigError, match="point -1 0"):
        check_within([Prompt(None, ((-1, 0),), (1,))], (90, 120))
