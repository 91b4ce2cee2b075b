"""Images are read as those of the run were, or as `--data` says."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from mobile_sam.__main__ import main
from mobile_sam.config.load import Runs
from mobile_sam.config.parsing import parse_config
from mobile_sam.inference.loading import build_sam
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.settings_files import write_settings
from tests.helpers.drawn import label_map, picture, save
from tests.helpers.runs import tiny_settings

BANDS = '{"bands": [4, 2, 1]}'
Call = Callable[..., int]


@pytest.fixture
def places(scenes: Path, tmp_path: Path) -> dict[str, Path]:
    """A finished run with bands, an image of five bands, and a place for results."""
    settings = tiny_settings(scenes, tmp_path / "results", data={"bands": [4, 2, 1]})
    config = parse_config(settings, "test")
    write_settings(Runs((config,), (config,)))
    model = build_sam_model(config.model_type, config.img_size, config.iou_head_depth, seed=3)
    torch.save(to_original(model), RunPaths(config).weights)
    plain = tmp_path / "plain.pt"
    torch.save(to_original(model), plain)
    image = tmp_path / "images" / "a.tif"
    image.parent.mkdir()
    five = np.dstack([picture(), picture(1)[..., :2]])
    tifffile.imwrite(image, five, photometric="minisblack", planarconfig="contig")
    save(tmp_path / "masks" / "a.png", label_map())
    return {
        "run": RunPaths(config).weights,
        "plain": plain,
        "image": image,
        "masks": tmp_path / "masks",
        "out": tmp_path / "out",
    }


def call(name: str, places: dict[str, Path], weights: str, *more: str) -> int:
    given = ["--weights", str(places[weights]), "--out", str(places["out"]), "--img-size", "64"]
    what = {
        "predict": ["--image", str(places["image"]), "--point", "20", "0"],
        "segment": ["--images", str(places["image"].parent), "--points-per-side", "2"],
        "evaluate": [
            *("--images", str(places["image"].parent), "--masks", str(places["masks"])),
            *("--protocols", "box", "--benchmark-repeats", "0"),
        ],
    }
    return main([name, *given, *what[name], *more])


@pytest.mark.parametrize("name", ["predict", "segment"])
def test_a_run_reads_other_images_as_it_read_its_own(name: str, places: dict[str, Path]) -> None:
    assert build_sam(places["run"]).image_options.bands == (4, 2, 1)
    assert call(name, places, "run") == 0


@pytest.mark.parametrize("name", ["predict", "segment", "evaluate"])
def test_files_of_other_weights_are_read_as_told(
    name: str, places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert call(name, places, "plain") == 1
    assert "a.tif: the image has 5 bands of uint8; select three with data.bands" in caplog.text
    places["out"] = places["out"].with_name("other")
    assert call(name, places, "plain", "--data", BANDS) == 0


def test_options_that_are_none_are_named(
    places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert call("predict", places, "plain", "--data", "bands") == 1
    assert "--data bands: not JSON" in caplog.text
    assert call("predict", places, "plain", "--data", '{"band": 1}') == 1
    assert "unknown key 'data.band'" in caplog.text


def test_segment_refuses_to_mix_images_that_were_read_otherwise(
    places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert call("segment", places, "plain", "--data", BANDS) == 0
    told = json.loads((places["out"] / "settings.json").read_text(encoding="utf-8"))
    assert told["model"]["images"] == {"bands": [4, 2, 1]}
    assert call("segment", places, "plain", "--data", '{"bands": [1, 2, 3]}') == 1
    assert "the results there have other settings" in caplog.text


@pytest.mark.parametrize("name", ["predict", "segment"])
def test_an_image_without_a_row_in_the_model_frame_is_named(
    name: str, places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    places["image"].unlink()
    places["image"] = save(places["image"].with_name("thin.png"), np.zeros((1, 3000), np.uint8))
    assert call(name, places, "plain") == 1
    assert "thin.png: an image of 3000x1 pixels is thinner than one pixel" in caplog.text
