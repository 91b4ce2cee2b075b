"""Boxes of detectors and annotation tools, read from COCO JSON or YOLO text files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mobile_sam.data.formats.annotation import format_size
from mobile_sam.data.formats.coco import EXPECTED_FORM, Category, Id, Image, normalise_id
from mobile_sam.data.formats.text_files import json_bytes, parse_json, read_lines
from mobile_sam.data.images import RecordError
from mobile_sam.data.index.table import DatasetError
from mobile_sam.data.masks import Size
from mobile_sam.data.record import Record, normalise_name
from mobile_sam.system.directories import CLASS_NAMES

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class InputBox:
    """One box. corners: xyxy; score: that of the detector; None if the file has none."""

    corners: Corners
    category_id: int
    score: float | None = None


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image.

    size: (H, W) of the image that the boxes were written for, which are in pixels; None: the boxes
    are relative to the sides of the image, from 0 to 1.
    """

    boxes: tuple[InputBox, ...] = ()
    size: Size | None = None

    def in_pixels(self, size: Size) -> list[InputBox]:
        """Return the boxes in pixels of an image (H, W). Raises ValueError for another size."""
        if self.size is not None and self.size != size:
            raise ValueError(
                f"the boxes are for an image of {format_size(self.size)} pixels, but this one has "
                f"{format_size(size)}; write boxes for this image"
            )
        height, width = (1, 1) if self.size else size
        boxes = []
        for box in self.boxes:
            x0, y0, x1, y1 = box.corners
            corners = x0 * width, y0 * height, x1 * width, y1 * height
            if corners[0] >= size[1] or corners[1] >= size[0] or min(corners[2:]) <= 0:
                raise ValueError(
                    f"box {' '.join(f'{n:g}' for n in corners)} lies outside of the image, which "
                    f"has {format_size(size)} pixels; correct or remove the box"
                )
            boxes.append(InputBox(corners, box.category_id, box.score))
        return boxes


@dataclass(frozen=True)
class BoxFile:
    """Boxes of a data set. categories: names of classes by id; of_image: boxes by image id."""

    categories: dict[int, str]
    of_image: dict[str, ImageBoxes]


class _Annotation(msgspec.Struct, gc=False):
    image_id: Id
    bbox: Corners
    category_id: Id = 1
    score: float | None = None
    iscrowd: int | float | bool | None = 0


class _File(msgspec.Struct):
    images: list[Image]
    annotations: list[_Annotation]
    categories: list[Category] | None = None


def read_boxes(path: Path, images: Sequence[Record]) -> BoxFile:
    """Read the boxes of images; an image may have none. Segmentations are ignored.

    path: a COCO file whose annotations have `bbox` and optionally `score`, without crowds; or a
    directory with YOLO text files `<image id>.txt` of lines `class x y width height`, optionally
    followed by a score. YOLO coordinates are those of the centre, relative to the image's sides;
    `classes.txt` has the names of classes.
    images: records; their ids are their paths below their directory, without the suffix.
    Raises DatasetError with a sentence for each problem: a file of another format, boxes of unknown
    images, no box at all.
    """
    problems: list[str] = []
    ids = {record.image_id for record in images}
    box_file = (_read_yolo_boxes if path.is_dir() else _read_coco_boxes)(path, ids, problems)
    if not problems and not any(image.boxes for image in box_file.of_image.values()):
        problems.append(
            f"{path}: there is no box for any of the {len(ids)} images; add boxes, or check the "
            "path"
        )
    if problems:
        raise DatasetError("\n".join(problems))
    return box_file


def _read_coco_boxes(path: Path, ids: set[str], problems: list[str]) -> BoxFile:
    try:
        content = parse_json(json_bytes(path), path, _File, EXPECTED_FORM)
    except RecordError as error:
        problems.append(
            f"{error}; write images: [{{id, file_name, width, height}}], annotations: [{{image_id, "
            "category_id, bbox: [x, y, width, height], score}], categories: [{id, name}]"
        )
        return BoxFile({}, {})
    names = _category_names(content.categories or [], path, problems)
    of_image: dict[object, list[InputBox]] = {normalise_id(i.id): [] for i in content.images}
    if len(of_image) < len(content.images):
        problems.append(f"{path}: several images have the same id; give each a different id")
    for number, item in enumerate(content.annotations):
        x, y, width, height = item.bbox
        image_id, category_id = normalise_id(item.image_id), normalise_id(item.category_id)
        place = f"{path}: annotations[{number}]"
        if item.iscrowd:
            continue
        if not (width > 0 and height > 0):
            problems.append(f"{place}: bbox {list(item.bbox)} has no area; correct or remove it")
        elif image_id not in of_image:
            problems.append(f"{place}: image_id {item.image_id!r} matches no image; add the image")
        elif not isinstance(category_id, int) or (names and category_id not in names):
            problems.append(
                f"{place}: category_id {item.category_id!r} matches no category; add the category"
            )
        else:
            corners = (x, y, x + width, y + height)
            of_image[image_id].append(InputBox(corners, category_id, item.score))
    by_image = _match_images(content.images, of_image, ids, path, problems)
    return BoxFile(names or _default_names(by_image), by_image)


def _match_images(
    images: list[Image],
    of_image: dict[object, list[InputBox]],
    ids: set[str],
    path: Path,
    problems: list[str],
) -> dict[str, ImageBoxes]:
    """Return the boxes by image id. ids: those of the images on disk."""
    by_image: dict[str, ImageBoxes] = {}
    for image in images:
        if not image.name.strip("/\\."):
            problems.append(f"{path}: image {image.id!r} has no file_name; add it")
            continue
        name = normalise_name(Path(image.name.replace("\\", "/")).with_suffix("").as_posix())
        boxes = of_image[normalise_id(image.id)]
        if name not in ids:
            if boxes:
                problems.append(
                    f"{path}: there is no image {image.name!r}; add it, or remove its boxes"
                )
            continue
        try:
            size = image.size
        except ValueError as error:
            problems.append(f"{path}: image {image.name!r}: {error}")
            continue
        if size is None:
            problems.append(f"{path}: image {image.name!r}: width or height is missing; add it")
        else:
            by_image[name] = ImageBoxes(tuple(boxes), size)
    return by_image


def _category_names(categories: list[Category], path: Path, problems: list[str]) -> dict[int, str]:
    """Return names of classes by number; a class whose id is not a number is a problem."""
    names: dict[int, str] = {}
    for category in categories:
        number = normalise_id(category.id)
        if not isinstance(number, int):
            problems.append(f"{path}: category {category.id!r}: the id is not a number; write one")
        else:
            names[number] = str(number if category.name is None else category.name)
    return names


def _read_yolo_boxes(path: Path, ids: set[str], problems: list[str]) -> BoxFile:
    names: dict[int, str] = {}
    by_image: dict[str, ImageBoxes] = {}
    for file in sorted(path.rglob("*.txt")):
        image_id = normalise_name(file.relative_to(path).with_suffix("").as_posix())
        try:
            lines = read_lines(file)
        except RecordError as error:
            problems.append(str(error))
            continue
        if file.name == CLASS_NAMES:
            names = dict(enumerate(lines))
        elif image_id in ids:
            by_image[image_id] = ImageBoxes(tuple(_parse_lines(file, lines, problems)))
        else:
            problems.append(f"{file}: there is no image {image_id}; add it, or remove the file")
    return BoxFile(_default_names(by_image) | names, by_image)


def _parse_lines(file: Path, lines: list[str], problems: list[str]) -> Iterator[InputBox]:
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                yield _parse_line(line)
        except ValueError:
            problems.append(
                f"{file}: line {number}: {line!r} is not a box; write class, x and y of the "
                "centre, width, height and optionally a score, all except the class from 0 to 1"
            )


def _parse_line(line: str) -> InputBox:
    """Return the box of a YOLO line. Raises ValueError for any other line."""
    category, *numbers = line.split()
    x, y, width, height, *score = (float(number) for number in numbers)
    are_relative = all(0 <= number <= 1 for number in (x, y, width, height, *score))
    has_area = width > 0 and height > 0
    if not (category.isdecimal() and are_relative and has_area and len(score) <= 1):
        raise ValueError(line)
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return InputBox(corners, int(category), score[0] if score else None)


def _default_names(by_image: dict[str, ImageBoxes]) -> dict[int, str]:
    """Return the numbers of the classes as their names."""
    numbers = {box.category_id for image in by_image.values() for box in image.boxes}
    return {number: str(number) for number in sorted(numbers)}
