"""Boxes in images, as detectors and annotation tools write them: COCO's JSON, or YOLO's text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mobile_sam.data.annotations import lines_of
from mobile_sam.data.coco import Category, Image, decoded
from mobile_sam.data.images import RecordError
from mobile_sam.data.index import DatasetError
from mobile_sam.data.masks import Size
from mobile_sam.data.records import CLASS_NAMES, Record, normal_name

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class GivenBox:
    """One box. corners: xyxy; score: the detector's, if it gives one."""

    corners: Corners
    category_id: int
    score: float | None = None


@dataclass(frozen=True)
class ImageBoxes:
    """Boxes of one image in its pixels. size: its (H, W); None: they are parts of its sides."""

    boxes: tuple[GivenBox, ...] = ()
    size: Size | None = None

    def in_pixels(self, size: Size) -> list[GivenBox]:
        """The boxes in an image of (H, W). Raises ValueError where they are of another one."""
        if self.size not in {None, size}:
            raise ValueError(
                f"its boxes are of {_wide(self.size)} pixels, the image is {_wide(size)}; "
                "write boxes for the image as it is"
            )
        height, width = (1, 1) if self.size else size
        found = []
        for given in self.boxes:
            x0, y0, x1, y1 = given.corners
            corners = x0 * width, y0 * height, x1 * width, y1 * height
            if corners[0] >= size[1] or corners[1] >= size[0] or min(corners[2:]) <= 0:
                raise ValueError(
                    f"box {' '.join(f'{place:g}' for place in corners)} lies outside of the image, "
                    f"which is {_wide(size)} pixels; correct it, or leave it out"
                )
            found.append(GivenBox(corners, given.category_id, given.score))
        return found


@dataclass(frozen=True)
class BoxFile:
    """Boxes of a data set. categories: names of classes by id; of_image: by the image's id."""

    categories: dict[int, str]
    of_image: dict[str, ImageBoxes]


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    bbox: Corners
    category_id: int = 1
    score: float | None = None
    iscrowd: int = 0


class _File(msgspec.Struct):
    images: list[Image]
    annotations: list[_Annotation]
    categories: list[Category] = []


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
    found = (_yolo if path.is_dir() else _coco)(path, ids, problems)
    if not problems and not any(image.boxes for image in found.of_image.values()):
        problems.append(f"{path}: there is no box of any of {len(ids)} images")
    if problems:
        raise DatasetError("\n".join(problems))
    return found


def _coco(path: Path, ids: set[str], problems: list[str]) -> BoxFile:
    try:
        content = decoded(path, _File)
    except RecordError as error:
        problems.append(
            f"{error}; write images: [{{id, file_name, width, height}}], annotations: [{{image_id, "
            "category_id, bbox: [x, y, width, height], score}], categories: [{id, name}]"
        )
        return BoxFile({}, {})
    names = {category.id: category.name for category in content.categories}
    of_image: dict[int | str, list[GivenBox]] = {image.id: [] for image in content.images}
    for number, item in enumerate(content.annotations):
        x, y, width, height = item.bbox
        told = f"{path}: annotations[{number}]"
        if item.iscrowd:
            continue
        if not (width > 0 and height > 0):
            problems.append(f"{told}: bbox {list(item.bbox)} has no area; correct it or remove it")
        elif item.image_id not in of_image:
            problems.append(f"{told}: image_id {item.image_id!r} is that of no image; add it")
        elif names and item.category_id not in names:
            problems.append(
                f"{told}: category_id {item.category_id} is that of no category; add it"
            )
        else:
            corners = (x, y, x + width, y + height)
            of_image[item.image_id].append(GivenBox(corners, item.category_id, item.score))
    found = {}
    for image in content.images:
        image_id = normal_name(Path(image.file_name).with_suffix("").as_posix())
        if image_id in ids:
            found[image_id] = ImageBoxes(tuple(of_image[image.id]), (image.height, image.width))
        elif of_image[image.id]:
            problems.append(f"{path}: there is no image {image.file_name!r}; put it there")
    return BoxFile(names or _numbered(found), found)


def _yolo(path: Path, ids: set[str], problems: list[str]) -> BoxFile:
    names: dict[int, str] = {}
    found: dict[str, ImageBoxes] = {}
    for file in sorted(path.rglob("*.txt")):
        image_id = normal_name(file.relative_to(path).with_suffix("").as_posix())
        try:
            lines = lines_of(file)
        except RecordError as error:
            problems.append(str(error))
            continue
        if file.name == CLASS_NAMES:
            names = dict(enumerate(lines))
        elif image_id in ids:
            found[image_id] = ImageBoxes(tuple(_boxes_of_lines(file, lines, problems)))
        else:
            problems.append(
                f"{file}: there is no image {image_id}; put it there, or remove the file"
            )
    return BoxFile(_numbered(found) | names, found)


def _boxes_of_lines(file: Path, lines: list[str], problems: list[str]) -> Iterator[GivenBox]:
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                yield _box_of_line(line)
        except ValueError:
            problems.append(
                f"{file}: line {number}: {line!r} is no box; write class, x and y of the centre, "
                "width, height, and perhaps a score, all but the class from 0 to 1"
            )


def _box_of_line(line: str) -> GivenBox:
    """Raises ValueError for a line that is none."""
    category, *numbers = line.split()
    x, y, width, height, *score = (float(number) for number in numbers)
    are_parts = all(0 <= number <= 1 for number in (x, y, width, height, *score))
    if not (category.isdecimal() and are_parts and width > 0 and height > 0 and len(score) <= 1):
        raise ValueError(line)
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return GivenBox(corners, int(category), score[0] if score else None)


def _numbered(found: dict[str, ImageBoxes]) -> dict[int, str]:
    """Names of classes that have none: their numbers."""
    numbers = {box.category_id for image in found.values() for box in image.boxes}
    return {number: str(number) for number in sorted(numbers)}


def _wide(size: Size | None) -> str:
    return f"{size[1]} x {size[0]}" if size else ""
