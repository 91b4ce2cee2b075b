"""Masks that are found become a data set in the form of SA-1B."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobile_sam.config.sections import Data
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index
from mobile_sam.inference.automatic_masks import OUTPUT_MODES, SamAutomaticMaskGenerator
from mobile_sam.inference.sa1b import write_sa1b
from mobile_sam.models.sam import Sam
from tests.helpers.discs import ALL, HEIGHT, WIDTH

SIZE = (HEIGHT, WIDTH)
KEYS = {"segmentation", "area", "bbox", "predicted_iou", "point_coords"}
KEYS |= {"stability_score", "crop_box", "id"}


def records(model: Sam, image: np.ndarray, mode: str = "binary_mask") -> list[dict[str, Any]]:
    return SamAutomaticMaskGenerator(model, 3, **ALL, output_mode=mode).generate(image)


@pytest.mark.parametrize("mode", OUTPUT_MODES)
def test_what_is_written_is_read_as_a_data_set(
    model: Sam, image: np.ndarray, tmp_path: Path, mode: str
) -> None:
    images, masks = tmp_path / "image", tmp_path / "mask"
    images.mkdir()
    for name in ("a", "b"):
        Image.fromarray(image).save(images / f"{name}.png")
        found = records(model, image, mode)[name == "b" :]
        write_sa1b(masks / f"{name}.json", found, f"{name}.png", SIZE)
    places = {"train": (images, masks), "val": (images, masks)}
    index_dataset(places, tmp_path / "index.parquet", Data(duplicates="allow"))
    read = Index(tmp_path / "index.parquet", "train")
    assert [read[place].image_id for place in range(len(read))] == ["a", "b"]
    expected = [record["segmentation"] for record in records(model, image)]
    assert len(expected) == 27
    for place, skipped in ((0, 0), (1, 1)):
        codes = {read[place].mask(segment).tobytes() for segment in read[place].segments}
        assert codes == {mask.tobytes() for mask in expected[skipped:]}


def test_the_file_says_what_those_of_sa1b_say(
    model: Sam, image: np.ndarray, tmp_path: Path
) -> None:
    found = records(model, image)
    write_sa1b(tmp_path / "a.json", found, "a.jpg", SIZE, image_id=7)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["image"] == {"image_id": 7, "file_name": "a.jpg", "height": 90, "width": 120}
    assert [item["id"] for item in content["annotations"]] == list(range(len(found)))
    for written, record in zip(content["annotations"], found, strict=True):
        assert set(written) == KEYS
        assert all(written[key] == record[key] for key in KEYS - {"segmentation", "id"})
        assert written["segmentation"]["size"] == [90, 120]


def test_no_masks_are_a_file_without_annotations(tmp_path: Path) -> None:
    write_sa1b(tmp_path / "a.json", [], "a.jpg", SIZE)
    assert json.loads((tmp_path / "a.json").read_text())["annotations"] == []


def test_masks_that_no_data_set_can_have_are_errors(
    model: Sam, image: np.ndarray, tmp_path: Path
) -> None:
    good, bad = records(model, image)[:2]
    with pytest.raises(ValueError, match=r"record 1: the mask is of \(H, W\) \(90, 120\)"):
        write_sa1b(
            tmp_path / "a.json", [good | {"segmentation": np.ones((5, 5))}, bad], "a", (5, 5)
        )
    empty = bad | {"segmentation": np.zeros(SIZE, dtype=bool), "area": 0}
    with pytest.raises(ValueError, match="record 1: the mask is empty"):
        write_sa1b(tmp_path / "a.json", [good, empty], "a.jpg", SIZE)
    assert not (tmp_path / "a.json").exists()
