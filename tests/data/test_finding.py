"""Which files are images, which are annotations, which are neither, and what is said of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobile_sam.data.index.summary import summarise
from mobile_sam.data.index.table import DatasetError
from mobile_sam.data.records import find_records, find_unlabelled
from mobile_sam.system.directories import mark_output
from mobile_sam.system.errors import UserError
from tests.helpers.drawn import (
    AREAS,
    HEIGHT,
    WIDTH,
    areas,
    coco,
    draw_image,
    dump,
    label_map,
    notes,
    picture,
    read,
    save,
    square,
)

APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_image(tmp_path / "images")


def masks_of(images: Path) -> Path:
    return images.parent / "masks"


def junk(directory: Path) -> None:
    """Leave what systems leave in a directory."""
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.png"):
        (directory / name).write_bytes(APPLE)
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        save(directory / name / "a-checkpoint.png", picture())


def test_files_that_are_no_data_are_passed_over_and_counted(images: Path) -> None:
    for number in range(3):
        save(masks_of(images) / "a" / f"{number}.png", square(number))
    for directory in (images, masks_of(images), masks_of(images) / "a"):
        junk(directory)
    assert areas(images, masks_of(images)) == AREAS
    assert "21 hidden or system files" in notes(images)


def test_images_without_masks_leave_out_what_is_no_data(images: Path) -> None:
    junk(images)
    save(images / "more" / "b.png", picture(1))
    save(images / ".Trash-0" / "c.png", picture(2))
    found = find_unlabelled(images)
    assert [record.image_id for record in found.records] == ["a", "more/b"]
    assert "8 hidden or system files" in found.notes[0]


def test_results_of_this_package_are_no_input(images: Path) -> None:
    save(images / "segmentation" / "label_maps" / "a.png", label_map())
    assert len(find_unlabelled(images).records) == 2
    mark_output(images / "segmentation")
    found = find_unlabelled(images)
    assert [record.image_id for record in found.records] == ["a"]
    assert "segmentation" in found.notes[0]
    inside = find_unlabelled(images / "segmentation")
    assert [record.image_id for record in inside.records] == ["label_maps/a"]


@pytest.mark.parametrize("kind", ["label maps", "directories of masks"])
@pytest.mark.parametrize("together", [False, True])
def test_subdirectories_of_images_have_masks_in_subdirectories_of_the_same_names(
    kind: str, together: bool, images: Path
) -> None:
    masks = images if together and kind != "label maps" else masks_of(images)
    for day in ("", "day 1/", "day 2/deep/"):
        draw_image(images / day)
        if kind == "label maps":
            save(masks / f"{day}a.png", label_map())
        else:
            for number in range(3):
                save(masks / day / "a" / f"{number}.png", square(number))
    seen = read(images, masks)
    assert {name: [item.area for item in of] for name, of in seen.items()} == dict.fromkeys(
        ("a", "day 1/a", "day 2/deep/a"), AREAS
    )


def test_masks_below_the_images_are_no_images(images: Path) -> None:
    masks = save(images / "masks" / "a.png", label_map()).parent
    assert areas(images, masks) == AREAS


def test_what_is_not_read_is_named(images: Path) -> None:
    save(masks_of(images) / "a" / "1.png", square(0))
    (masks_of(images) / "a" / "notes.doc").write_text("x")
    save(masks_of(images) / "a" / "old" / "1.png", square(1))
    save(images / "thumbnails" / "a.png", picture())
    (images / "b.heic").write_bytes(b"x")
    assert areas(images, masks_of(images)) == [AREAS[0]]
    note = notes(images)
    assert "not read: 4 files or directories" in note
    listing = "\n".join(find_records(images, masks_of(images)).notes)
    assert "thumbnails" in listing or "b.heic" in listing


def test_a_directory_of_masks_without_a_mask_is_no_image_without_objects(images: Path) -> None:
    (masks_of(images) / "a").mkdir(parents=True)
    (masks_of(images) / "a" / "mask.doc").write_text("x")
    with pytest.raises(DatasetError, match=r"masks/a: there is no mask .* next to mask\.doc"):
        read(images, masks_of(images))


@pytest.mark.parametrize("place", ["images/b.png", "masks/b.png", "masks/a/2.png"])
def test_links_that_lead_nowhere_are_named(place: str, images: Path) -> None:
    save(masks_of(images) / "a" / "1.png", square(0))
    (images.parent / place).symlink_to("../gone.png")
    with pytest.raises(DatasetError, match=rf"{place}: the link leads to \.\./gone\.png, which is"):
        read(images, masks_of(images))


def test_links_to_files_and_directories_are_followed(images: Path) -> None:
    save(images.parent / "store" / "a.png", label_map())
    masks_of(images).symlink_to(images.parent / "store")
    assert areas(images, masks_of(images)) == AREAS


def test_a_link_to_a_directory_above_it_ends(images: Path) -> None:
    (images / "loop").symlink_to(images)
    assert "leads to a directory above it" in "\n".join(find_unlabelled(images).problems)
    save(masks_of(images) / "a.png", label_map())
    (masks_of(images) / "loop").symlink_to(masks_of(images))
    with pytest.raises(UserError, match="leads to a directory above it"):
        read(images, masks_of(images))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (("nowhere", "masks"), "nowhere: there is no such directory"),
        (("images", "nowhere"), "nowhere: there is no such directory"),
        (("images/a.png", "masks"), r"a\.png: this is a file, not a directory"),
        (("images", "images/a.png"), r"a\.png: neither a directory of masks nor a JSON file"),
    ],
)
def test_places_that_are_not_there_are_named(
    places: tuple[str, str], message: str, images: Path
) -> None:
    masks_of(images).mkdir()
    with pytest.raises(UserError, match=message):
        read(images.parent / places[0], images.parent / places[1])


def test_case_matters_and_the_message_says_so(images: Path) -> None:
    save(masks_of(images) / "A.png", label_map())
    with pytest.raises(DatasetError, match=r"A\.png: the masks have no image; .*differs in case"):
        read(images, masks_of(images))


def test_images_of_other_formats_are_named_where_masks_miss_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.heic").write_bytes(b"x")
    save(tmp_path / "masks" / "a.png", label_map())
    with pytest.raises(DatasetError, match=r"a\.png: the masks have no image; .*a\.heic is not su"):
        read(tmp_path / "images", tmp_path / "masks")


BLACK = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)


def empty_directory(masks: Path) -> None:
    (masks / "b").mkdir()


def empty_text(masks: Path) -> None:
    (masks / "b.txt").write_text("")


EMPTY: dict[str, Any] = {
    "an empty directory": empty_directory,
    "a black mask": lambda masks: save(masks / "b" / "1.png", BLACK),
    "a black label map": lambda masks: save(masks / "b.png", BLACK),
    "an empty text": empty_text,
    "LabelMe": lambda masks: dump(masks / "b.json", {"shapes": [], "imagePath": "b.png"}),
    "ISAT": lambda masks: dump(masks / "b.json", {"info": {}, "objects": []}),
    "GeoJSON": lambda masks: dump(masks / "b.geojson", []),
    "SA-1B": lambda masks: dump(masks / "b.json", {"image": {}, "annotations": []}),
    "COCO": lambda masks: dump(masks / "b.json", coco("b.png", annotations=[])),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_image_without_objects_is_declared_in_every_format(name: str, images: Path) -> None:
    draw_image(images, "b.png")
    save(masks_of(images) / "a.png", label_map())
    EMPTY[name](masks_of(images))
    seen = read(images, masks_of(images))
    assert [len(seen[image]) for image in "ab"] == [3, 0]


def test_images_without_any_annotation_are_an_error_or_empty(images: Path) -> None:
    draw_image(images, "b.png")
    save(masks_of(images) / "a.png", label_map())
    with pytest.raises(DatasetError, match=r"b\.png: the image has no masks; .*an empty dir"):
        read(images, masks_of(images))
    seen = read(images, masks_of(images), unannotated="empty")
    assert [len(seen[image]) for image in "ab"] == [3, 0]


def test_a_black_mask_beside_others_says_how_to_declare_an_image_without_objects(
    images: Path,
) -> None:
    save(masks_of(images) / "a" / "1.png", square(0))
    save(masks_of(images) / "a" / "2.png", BLACK)
    with pytest.raises(
        DatasetError, match=r"2\.png: the mask is empty; delete it \(for an image with"
    ):
        read(images, masks_of(images))


@pytest.mark.parametrize("text", ["a", "a.png", "\ufeffa", "a.png\r\n\r\n"])
def test_a_subset_may_name_files_and_begin_with_a_mark(text: str, images: Path) -> None:
    draw_image(images, "b.png")
    for name in "ab":
        save(masks_of(images) / f"{name}.png", label_map())
    subset = images.parent / "subset.txt"
    subset.write_text(text, encoding="utf-8")
    assert set(read(images, masks_of(images), subset=str(subset))) == {"a"}


def test_the_summary_shows_what_was_read_as_what_and_what_was_not(images: Path) -> None:
    draw_image(images, "b.png")
    dump(images.parent / "coco.json", coco("images\\a.png"))
    content = coco("images\\a.png")
    content["annotations"][0]["iscrowd"] = 1
    read(images, dump(images.parent / "coco.json", content))
    text = summarise(images.parent / "index.parquet").text()
    assert "images read as coco" in text
    assert "left out of val: 1 crowds" in text
    assert "set data.crowds to 'objects'" in text
    assert "note: not listed in" in text
    assert "b.png" in text
    assert "note:" in text
    assert "1 file names are read as other paths" in text


def test_the_same_notes_are_there_when_nothing_is_read_again(images: Path) -> None:
    save(masks_of(images) / "a.png", label_map())
    junk(images)
    read(images, masks_of(images))
    first = notes(images)
    read(images, masks_of(images))
    assert notes(images) == first != ""
