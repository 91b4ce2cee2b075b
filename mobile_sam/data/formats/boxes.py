"""Boxes in images, as detectors and annotation tools write them: COCO's JSON, or YOLO's text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mobile_sam.data.formats.coco import Category, Id, Image, normalise_id, read_coco_json
from mobile_sam.data.formats.yolo import read_lines
from mobile_sam.data.images import RecordError
from mobile_sam.data.index.table import DatasetError
from mobile_sam.data.masks import Size
from mobile_sam.data.record import Record, normalise_name
from mobile_sam.system.directories import CLASS_NAMES

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class InputBox:
    """One box. corners: xyxy; score: the detector's, if it gives one."""

    corners: Corners
    category_id: int
    score: float | None = None


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image in its pixels. size: its (H, W); None: they are parts of its sides."""

    boxes: tuple[InputBox, ...] = ()
    size: Size | None = None

    def in_pixels(self, size: Size) -> list[InputBox]:
        """The boxes in an image of (H, W). Raises ValueError where they are of another one."""
        if self.size not in {None, size}:
            raise ValueError(
                f"its boxes are of {_format_size(self.size)} pixels, the image is "
                f"{_format_size(size)}; write boxes for the image as it is"
            )
        height, width = (1, 1) if self.size else size
        found = []
        for given in self.boxes:
            x0, y0, x1, y1 = given.corners
            corners = x0 * width, y0 * height, x1 * width, y1 * height
            if corners[0] >= size[1] or corners[1] >= size[0] or min(corners[2:]) <= 0:
                raise ValueError(
                    f"box {' '.join(f'{place:g}' for place in corners)} lies outside of the image, "
                    f"which is {_format_size(size)} pixels; correct it, or leave it out"
                )
            found.append(InputBox(corners, given.category_id, given.score))
        return found


@dataclass(frozen=True)
class BoxFile:
    """Boxes of a data set. categories: names of classes by id; of_image: by the image's id."""

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
    """The boxes of images, of which some may have none; what is told of segments is passed over.

    path: a file of COCO's form, whose annotations have `bbox` and perhaps `score`; crowds are left
    out. Or a directory with YOLO's text files, `<image id>.txt`, of lines `class x y width height`,
    of centres and in parts of the image's sides, with a score at the end or without; names of
    classes are in `classes.txt`.
    images: their ids are their paths below their directory, without the suffix.
    Raises DatasetError with a sentence for each fault: a file that is not of such a form, boxes of
    images that are not there, no box at all.
    """
    problems: list[str] = []
    ids = {record.image_id for record in images}
    found = (_read_yolo_boxes if path.is_dir() else _read_coco_boxes)(path, ids, problems)
    if not problems and not any(image.boxes for image in found.of_image.values()):
        problems.append(f"{path}: there is no box of any of {len(ids)} images")
    if problems:
        raise DatasetError("\n".join(problems))
    return found


def _read_coco_boxes(path: Path, ids: set[str], problems: list[str]) -> BoxFile:
    try:
        content = read_coco_json(path, _File)
    except RecordError as error:
        problems.append(
            f"{error}; write images: [{{id, file_name, width, height}}], annotations: [{{image_id, "
            "category_id, bbox: [x, y, width, height], score}], categories: [{id, name}]"
        )
        return BoxFile({}, {})
    names = _category_names(content.categories or [], path, problems)
    of_image: dict[object, list[InputBox]] = {normalise_id(i.id): [] for i in content.images}
    if len(of_image) < len(content.images):
        problems.append(f"{path}: several images have one id; give each an id of its own")
    for number, item in enumerate(content.annotations):
        x, y, width, height = item.bbox
        image_id, category_id = normalise_id(item.image_id), normalise_id(item.category_id)
        told = f"{path}: annotations[{number}]"
        if item.iscrowd:
            continue
        if not (width > 0 and height > 0):
            problems.append(f"{told}: bbox {list(item.bbox)} has no area; correct it or remove it")
        elif image_id not in of_image:
            problems.append(f"{told}: image_id {item.image_id!r} is that of no image; add it")
        elif not isinstance(category_id, int) or (names and category_id not in names):
            problems.append(
                f"{told}: category_id {item.category_id!r} is that of no category; add it"
            )
        else:
            corners = (x, y, x + width, y + height)
            of_image[image_id].append(InputBox(corners, category_id, item.score))
    found = _match_images(content.images, of_image, ids, path, problems)
    return BoxFile(names or _default_names(found), found)


def _match_images(
    images: list[Image],
    of_image: dict[object, list[InputBox]],
    ids: set[str],
    path: Path,
    problems: list[str],
) -> dict[str, ImageBoxes]:
    """The boxes by the ids of the images that are there, which a file may name otherwise."""
    found: dict[str, ImageBoxes] = {}
    for image in images:
        name = normalise_name(Path(image.name.replace("\\", "/")).with_suffix("").as_posix())
        boxes = of_image[normalise_id(image.id)]
        if name not in ids:
            if boxes:
                problems.append(f"{path}: there is no image {image.name!r}; put it there")
            continue
        try:
            size = image.size
        except ValueError as error:
            problems.append(f"{path}: image {image.name!r}: {error}")
            continue
        if size is None:
            problems.append(f"{path}: image {image.name!r}: width or height is missing; add it")
        else:
            found[name] = ImageBoxes(tuple(boxes), size)
    return found


def _category_names(categories: list[Category], path: Path, problems: list[str]) -> dict[int, str]:
    """Names of classes by their numbers; a class whose id is no number is a problem."""
    names: dict[int, str] = {}
    for category in categories:
        number = normalise_id(category.id)
        if not isinstance(number, int):
            problems.append(f"{path}: category {category.id!r}: write a number as id")
        else:
            names[number] = str(number if category.name is None else category.name)
    return names


def _read_yolo_boxes(path: Path, ids: set[str], problems: list[str]) -> BoxFile:
    names: dict[int, str] = {}
    found: dict[str, ImageBoxes] = {}
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
            found[image_id] = ImageBoxes(tuple(_parse_lines(file, lines, problems)))
        else:
            problems.append(
                f"{file}: there is no image {image_id}; put it there, or remove the file"
            )
    return BoxFile(_default_names(found) | names, found)


def _parse_lines(file: Path, lines: list[str], problems: list[str]) -> Iterator[InputBox]:
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                yield _parse_line(line)
        except ValueError:
            problems.append(
                f"{file}: line {number}: {line!r} is no box; write class, x and y of the centre, "
                "width, height, and perhaps a score, all but the class from 0 to 1"
            )


def _parse_line(line: str) -> InputBox:
    """Raises ValueError for a line that is none."""
    category, *numbers = line.split()
    x, y, width, height, *score = (float(number) for number in numbers)
    are_parts = all(0 <= number <= 1 for number in (x, y, width, height, *score))
    if not (category.isdecimal() and are_parts and width > 0 and height > 0 and len(score) <= 1):
        raise ValueError(line)
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return InputBox(corners, int(category), score[0] if score else None)


def _default_names(found: dict[str, ImageBoxes]) -> dict[int, str]:
    """Names of classes that have none: their numbers."""
    numbers = {box.category_id for image in found.values() for box in image.boxes}
    return {number: str(number) for number in sorted(numbers)}


def _format_size(size: Size | None) -> str:
    return f"{size[1]} x {size[0]}" if size else ""
