"""COCO's dialects: what has one meaning is read, the rest is named; LVIS, and a file an image."""

import copy
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.data.index.table import DatasetError
from tests.helpers.drawn import (
    AREAS,
    HEIGHT,
    WIDTH,
    areas,
    coco,
    draw_image,
    dump,
    notes,
    polygon,
    read,
)

Content = dict[str, Any]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_image(tmp_path / "images")


def each(content: Content, what: str, **changes: Any) -> Content:
    """The file with other values in each of its images, annotations or categories."""
    content = copy.deepcopy(content)
    for item in content[what]:
        item.update({k: v(item) if callable(v) else v for k, v in changes.items()})
    return content


def without(content: Content, what: str, *keys: str) -> Content:
    content = copy.deepcopy(content)
    for item in content[what]:
        for key in keys:
            item.pop(key, None)
    return content


PLAIN = coco()
READ: dict[str, Content] = {
    "plain": PLAIN,
    "ids of images as real numbers": each(PLAIN, "images", id=1.0),
    "ids of images as text": each(PLAIN, "annotations", image_id="1"),
    "ids as UUIDs": each(PLAIN, "annotations", id=lambda a: f"0f9c-{a['id']}"),
    "ids beyond 64 bits": each(PLAIN, "annotations", id=lambda a: 2**70 + a["id"]),
    "no ids": without(PLAIN, "annotations", "id"),
    "classes as text": each(PLAIN, "annotations", category_id="1"),
    "ids of classes as text": each(PLAIN, "categories", id="1"),
    "iscrowd missing": without(PLAIN, "annotations", "iscrowd"),
    "iscrowd null": each(PLAIN, "annotations", iscrowd=None),
    "iscrowd false": each(PLAIN, "annotations", iscrowd=False),
    "iscrowd text": each(PLAIN, "annotations", iscrowd="0"),
    "size as real number": each(PLAIN, "images", width=96.0, height=64.0),
    "size as text": each(PLAIN, "images", width="96", height="64"),
    "size -1": each(PLAIN, "images", width=-1, height=-1),
    "size 0": each(PLAIN, "images", width=0, height=0),
    "size null": each(PLAIN, "images", width=None, height=None),
    "no size": without(PLAIN, "images", "width", "height"),
    "flat polygons": each(PLAIN, "annotations", segmentation=lambda a: a["segmentation"][0]),
    "pairs": each(
        PLAIN,
        "annotations",
        segmentation=lambda a: [
            [list(xy) for xy in zip(p[::2], p[1::2], strict=True)] for p in a["segmentation"]
        ],
    ),
    "other keys": each(PLAIN, "images", license=3, path="/x/y", extra={"a": [1]}),
}


@pytest.mark.parametrize("name", READ)
def test_what_has_one_meaning_is_read(name: str, images: Path) -> None:
    seen = read(images, dump(images.parent / "coco.json", READ[name]))["a"]
    assert [item.area for item in seen] == AREAS
    assert {item.category for item in seen} == {"cell"}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({k: v for k, v in PLAIN.items() if k != "categories"}, "1"),
        (PLAIN | {"categories": None}, "1"),
        (without(PLAIN, "categories", "name"), "1"),
        (each(PLAIN, "categories", name=3), "3"),
    ],
)
def test_classes_without_names_are_called_by_their_numbers(
    content: Content, name: str, images: Path
) -> None:
    seen = read(images, dump(images.parent / "coco.json", content), classes=[name])["a"]
    assert [item.category for item in seen] == [name] * 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_content(encoding: str, images: Path) -> None:
    path = images.parent / "coco.json"
    path.write_text(json.dumps(PLAIN), encoding=encoding)
    assert areas(images, path) == AREAS


TWICE: dict[str, tuple[Content, str]] = {
    "images": (
        PLAIN | {"images": [*coco("a.png", "b.png")["images"], PLAIN["images"][0]]},
        "duplicate image ids: 1;",
    ),
    "annotations": (
        PLAIN | {"annotations": PLAIN["annotations"] * 2},
        "duplicate annotation ids: 1, 2, 3;",
    ),
    "categories": (
        PLAIN | {"categories": [{"id": 1, "name": "cell"}, {"id": "1", "name": "nucleus"}]},
        "duplicate category ids: 1;",
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_ids_that_are_there_twice_are_listed(name: str, images: Path) -> None:
    draw_image(images, "b.png")
    content, message = TWICE[name]
    with pytest.raises(DatasetError, match=message):
        read(images, dump(images.parent / "coco.json", content))


def test_no_image_gets_objects_of_another_one_even_if_problems_are_let_pass(images: Path) -> None:
    for name in ("b.png", "c.png"):
        draw_image(images, name)
    content = coco("a.png", "b.png", "c.png")
    content["images"][1]["id"] = 1
    seen = read(images, dump(images.parent / "coco.json", content), max_broken=100)
    assert set(seen) == {"c"}


WRONG: dict[str, tuple[Content, str]] = {
    "iscrowd 2": (each(PLAIN, "annotations", iscrowd=2), "annotation 1: iscrowd is neither 0 nor"),
    "half a pixel": (
        each(PLAIN, "images", width=96.5),
        "'a.png': width 96.5.* not a number of pix",
    ),
    "no name": (without(PLAIN, "images", "file_name"), "image 1 has no file_name; add it"),
    "no address": (
        each(without(PLAIN, "images", "file_name"), "images", coco_url="http://[a/b.png"),
        "image 1 has no file_name; add it",
    ),
    "no id": (
        without(PLAIN, "images", "id"),
        r"not annotations in the format of COCO.*\$\.images\[0\]",
    ),
    "one image": (PLAIN | {"images": PLAIN["images"][0]}, r"not annotations in .*\$\.images"),
    "another size": (each(PLAIN, "images", width=64), "annotations are of 64x64 pixels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_has_no_meaning_is_named(name: str, images: Path) -> None:
    content, message = WRONG[name]
    with pytest.raises(DatasetError, match=message):
        read(images, dump(images.parent / "coco.json", content))


def test_results_are_no_annotations(images: Path) -> None:
    with pytest.raises(
        DatasetError, match="a list, as in COCO's results format; give the file that has"
    ):
        read(images, dump(images.parent / "coco.json", PLAIN["annotations"]))


def test_numbers_that_json_lacks_are_named_with_their_line(images: Path) -> None:
    path = images.parent / "coco.json"
    path.write_text(json.dumps(PLAIN, indent=1).replace("8,", "NaN,", 1))
    with pytest.raises(DatasetError, match=r"coco\.json: line \d+: NaN is not a number in JSON"):
        read(images, path)


def test_crowds_can_be_objects(images: Path) -> None:
    file = dump(images.parent / "coco.json", each(PLAIN, "annotations", iscrowd=1))
    with pytest.raises(DatasetError, match=r"3 crowds\); .*set data\.crowds to 'objects'"):
        read(images, file)
    assert areas(images, file, crowds="objects") == AREAS


NAMES: dict[str, tuple[str, str]] = {
    "backslashes": ("images\\a.png", "'images\\\\\\\\a.png' as a.png"),
    "directories that are not there": ("export/images/a.png", "as a.png"),
    "a drive": ("C:\\data\\a.png", "as a.png"),
    "of an address": ("images%2Fa.png", "as a.png"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_systems_are_found_and_noted(name: str, images: Path) -> None:
    written, note = NAMES[name]
    file = dump(images.parent / "coco.json", each(PLAIN, "images", file_name=written))
    assert areas(images, file) == AREAS
    assert note.replace("\\\\\\\\", "\\\\") in notes(images)


def test_names_that_lead_elsewhere_say_what_to_write(images: Path) -> None:
    content = each(PLAIN, "images", file_name="..\\..\\media\\upload\\a.png")
    with pytest.raises(
        DatasetError, match=r"points outside of .*make it relative \(write 'a\.png' instead\)"
    ):
        read(images, dump(images.parent / "coco.json", content))


def test_two_names_of_one_file_are_named(images: Path) -> None:
    content = coco("one/a.png", "two/a.png")
    with pytest.raises(DatasetError, match=r"'two/a\.png' and 'one/a\.png' name the same image"):
        read(images, dump(images.parent / "coco.json", content))


@pytest.mark.parametrize(("on_disk", "in_file"), [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("below", ["", "day é/"])
def test_accents_are_found_in_either_spelling(
    on_disk: str, in_file: str, below: str, images: Path
) -> None:
    name = f"{below}Zellkörper é.png"
    place = images / unicodedata.normalize(on_disk, name)
    draw_image(place.parent, place.name)
    content = coco(unicodedata.normalize(in_file, name))
    (seen,) = read(images, dump(images.parent / "coco.json", content)).values()
    assert [item.area for item in seen] == AREAS


def test_lvis_names_images_by_their_addresses(images: Path) -> None:
    content = without(PLAIN, "images", "file_name")
    content = without(content, "annotations", "iscrowd")
    content = each(
        content,
        "images",
        coco_url="http://images.cocodataset.org/train2017/a.png",
        neg_category_ids=[1],
        not_exhaustive_category_ids=[],
    )
    assert areas(images, dump(images.parent / "lvis.json", content)) == AREAS


def test_one_coco_file_for_each_image(images: Path) -> None:
    draw_image(images, "b.png")
    for name in "ab":
        dump(images.parent / "masks" / f"{name}.json", coco(f"{name}.png"))
    seen = read(images, images.parent / "masks")
    assert {name: [item.area for item in of] for name, of in seen.items()} == {
        "a": AREAS,
        "b": AREAS,
    }


def test_a_coco_file_of_other_images_in_a_directory_is_named(images: Path) -> None:
    dump(images.parent / "masks" / "a.json", coco("x.png", "y.png"))
    with pytest.raises(DatasetError, match=r"a\.json: the file has 2 images, of which none is c"):
        read(images, images.parent / "masks")


def test_images_without_annotations_are_images_without_objects(images: Path) -> None:
    draw_image(images, "b.png")
    content = coco("a.png", "b.png")
    content["annotations"] = content["annotations"][:3]
    seen = read(images, dump(images.parent / "coco.json", content))
    assert [len(seen[name]) for name in "ab"] == [3, 0]


def test_polygons_beyond_the_border_are_cut_off(images: Path) -> None:
    around = [-40.0, -30, WIDTH + 40, -30, WIDTH + 40, HEIGHT + 30, -40, HEIGHT + 30]
    content = each(PLAIN, "annotations", segmentation=lambda a: [around])
    assert areas(images, dump(images.parent / "coco.json", content)) == [WIDTH * HEIGHT] * 3


def test_polygon_of_a_square_is_its_pixels() -> None:
    assert polygon(0)[:4] == [8, 8, 28, 8]
