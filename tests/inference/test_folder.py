"""The verb `segment`: files of everything in the images of a directory."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobile_sam.cli.inference import AUTOMATIC
from mobile_sam.data.images import read_image
from mobile_sam.data.masks import decode
from mobile_sam.data.records import find_records
from mobile_sam.inference.automatic_masks import automatic_masks
from mobile_sam.inference.loading import build_sam
from mobile_sam.inference.proposals import AutomaticOptions
from mobile_sam.system.directories import OUTPUT_MARK
from tests.helpers.segmenting import coco_of, segment_photos

KEEP_ALL = (
    *("--pred-iou-thresh", 0, "--stability-score-thresh", 0),
    *("--points-per-side", 2, "--box-nms-thresh", 1),
)


def segment(images: Path, weights: Path, *arguments: object) -> int:
    return segment_photos(images, weights, *KEEP_ALL, *arguments)


def test_all_files_hold_the_masks_of_the_model(images: Path, finished_weights: Path) -> None:
    assert segment(images, finished_weights) == 0
    out, coco = images.parent / "out", coco_of(images)
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "below/b.png"]
    options = AutomaticOptions(2, None, 0, 0, box_nms_thresh=1)
    model = build_sam(finished_weights, 64)
    for image in coco["images"]:
        size = image["height"], image["width"]
        pixels = read_image(images / image["file_name"])
        wanted = [mask for mask in automatic_masks(model, pixels, options) if mask.area]
        assert len(wanted) > 1
        own = [item for item in coco["annotations"] if item["image_id"] == image["id"]]
        assert [item["segmentation"]["counts"].encode() for item in own] == [
            mask.code for mask in wanted
        ]
        assert [item["score"] for item in own] == [mask.predicted_iou for mask in wanted]
        for item, mask in zip(own, wanted, strict=True):
            rows, columns = np.nonzero(decode(mask.code, size))
            x, y, width, height = item["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
        name = image["file_name"].removesuffix(".png")
        labels = np.asarray(Image.open(out / "label_maps" / f"{name}.png"))
        assert labels.shape == size
        by_size = sorted(range(len(wanted)), key=[-mask.area for mask in wanted].__getitem__)
        drawn = np.zeros(size, dtype=int)
        for place in by_size:
            drawn[decode(wanted[place].code, size)] = place + 1
        np.testing.assert_array_equal(labels, drawn)
        assert Image.open(out / "overlays" / f"{name}.jpg").size == size[::-1]
    ids = [item["id"] for item in coco["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def test_what_is_finished_is_not_computed_again(
    images: Path, finished_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(images, finished_weights) == 0
    whole = (images.parent / "out" / "coco.json").read_bytes()
    first, second = (images.parent / "out" / "masks" / f"{n}.json" for n in ("a", "below/b"))
    second.unlink()  # as after a kill
    before = first.stat().st_mtime_ns
    assert segment(images, finished_weights) == 0
    assert "1 of them finished before" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == before
    assert (images.parent / "out" / "coco.json").read_bytes() == whole
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(images / "a.png")
    assert segment(images, finished_weights) == 0
    assert "1 of them finished before" in capsys.readouterr().out
    assert coco_of(images)["images"][0]["height"] == 40


def test_results_below_the_images_are_not_read(
    images: Path, finished_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = images / "results"

    def files() -> dict[Path, tuple[bytes, int]]:
        found = [path for path in out.rglob("*") if path.is_file() and path.name != "coco.json"]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}

    assert segment(images, finished_weights, "--out", out) == 0
    before, coco = files(), (out / "coco.json").read_bytes()
    capsys.readouterr()
    assert segment(images, finished_weights, "--out", out) == 0
    assert "in 2 images, 2 of them finished before" in capsys.readouterr().out
    assert files() == before
    assert (out / "coco.json").read_bytes() == coco
    # Another directory of results beside the first, and one of a version without the mark.
    (out / OUTPUT_MARK).unlink()
    assert segment(images, finished_weights, "--out", out) == 0
    assert segment(images, finished_weights, "--out", images / "below" / "more") == 0
    assert files() == before | {out / OUTPUT_MARK: files()[out / OUTPUT_MARK]}
    assert json.loads((images / "below" / "more" / "coco.json").read_text()) == json.loads(coco)


@pytest.mark.parametrize("above", ["photos", "."])
def test_results_do_not_lie_among_the_images(
    images: Path, above: str, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = images.parent / above
    assert segment(images, finished_weights, "--out", out) == 1
    assert f"--out {out}: the directory contains the input {images}" in caplog.text


def test_two_images_of_one_name_are_both_named(
    images: Path, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(images / "below" / "b.png", images / "a.bmp")
    assert segment(images, finished_weights) == 1
    assert "a.bmp" in caplog.text
    assert "a.png" in caplog.text
    assert "has the same name" in caplog.text
    out = images.parent / "out"
    assert {path.stem for path in out.glob("label_maps/**/*.png")} == {"b"}, "one of the two"


def test_a_directory_of_other_files_is_refused(
    images: Path, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = images.parent / "out"
    out.mkdir()
    (out / "masks").mkdir()
    assert segment(images, finished_weights) == 1
    assert "the directory holds other files, such as masks" in caplog.text
    assert [path.name for path in out.iterdir()] == ["masks"]


def test_files_of_other_options_are_refused(
    images: Path, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert segment(images, finished_weights) == 0
    assert segment(images, finished_weights, "--box-nms-thresh", 0.5) == 1
    assert "box_nms_thresh 1.0, now 0.5" in caplog.text
    assert segment(images, finished_weights, "--mask-threshold", 0.5) == 1
    assert "mask_threshold 0.0, now 0.5" in caplog.text


def test_a_broken_image_is_named_and_the_others_are_written(
    images: Path, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (images / "a.png").write_bytes(b"no image")
    assert segment(images, finished_weights, "--no-overlays") == 1
    assert f"{images / 'a.png'}: the image cannot be read" in caplog.text
    assert [image["file_name"] for image in coco_of(images)["images"]] == ["below/b.png"]
    assert not (images.parent / "out" / "overlays").exists()


def test_the_files_are_data_that_a_run_can_learn_from(images: Path, finished_weights: Path) -> None:
    (images / "below" / "b.png").unlink()
    assert segment(images, finished_weights) == 0
    out, count = images.parent / "out", len(coco_of(images)["annotations"])
    for masks, kind in (("coco.json", "coco"), ("masks", "json"), ("label_maps", "label_map")):
        found = find_records(images, out / masks)
        assert not found.problems
        (record,) = found.records
        assert record.format == kind
        assert kind != "coco" or len(record.objects) == count


def test_defaults_are_those_of_the_api() -> None:
    options = AutomaticOptions()
    assert {name: default for name, (_, default, _) in AUTOMATIC.items()} == {
        name: getattr(options, name) for name in AUTOMATIC
    }


def test_a_wrong_option_is_a_sentence(
    images: Path, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert segment(images, finished_weights, "--points-per-side", 0) == 1
    assert "points_per_side" in caplog.text
    assert not (images.parent / "out").exists()


@pytest.mark.parametrize("what", ["label_maps/a.png", "overlays/a.jpg", "masks/a.json"])
@pytest.mark.parametrize("damage", ["deleted", "cut", "empty", "changed"])
def test_what_is_deleted_or_damaged_is_made_again(
    what: str, damage: str, images: Path, finished_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert segment(images, finished_weights) == 0
    path = images.parent / "out" / what
    before, other = path.read_bytes(), path.parent / "below" / f"b{path.suffix}"
    kept = other.stat().st_mtime_ns
    if damage == "deleted":
        path.unlink()
    else:
        cut = before[: len(before) // 2]
        path.write_bytes(
            {"cut": cut, "empty": b"", "changed": cut + b"x" + before[len(cut) + 1 :]}[damage]
        )
    if what.endswith("json") and damage == "changed":
        path.write_text("[1]")
    assert segment(images, finished_weights) == 0
    assert path.read_bytes() == before
    assert other.stat().st_mtime_ns == kept
    assert (damage == "deleted" and what.endswith("json")) or "missing or damaged" in caplog.text


def test_label_maps_of_older_versions_are_not_made_again(
    images: Path, finished_weights: Path
) -> None:
    assert segment(images, finished_weights) == 0
    out = images.parent / "out"
    for path in out.glob("masks/**/*.json"):
        content = json.loads(path.read_text())
        del content["image"]["files"]
        path.write_text(json.dumps(content))
    times = {path: path.stat().st_mtime_ns for path in out.glob("label_maps/**/*.png")}
    assert segment(images, finished_weights) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
