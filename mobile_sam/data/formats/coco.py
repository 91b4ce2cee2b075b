"""JSON of COCO's form, of its dialects and of SA-1B: polygons and run-length codes.

Tools write ids as numbers or as text, crowds as 0 or false, sizes as 96.0 or not at all. What has
one meaning is read; ids that are there twice, and references to nothing, are named. Of a file for
all images the segmentations stay undecoded until their image is read, so that a file of a million
objects takes little more memory than its text.

COCO: Lin et al., arXiv:1405.0312; LVIS: Gupta et al., arXiv:1908.03195; SA-1B: Kirillov et al.,
arXiv:2304.02643.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items, size_error
from mobile_sam.data.formats.json_files import json_bytes, parse_json
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.masks import Size, check_code, encode_polygons, encode_runs
from mobile_sam.data.record import ListedAnnotation, Record

_T = TypeVar("_T")
Id = int | float | str | None
EXPECTED_FORM = "annotations as COCO or SA-1B have them"
_MAX_SHOWN_IDS = 10  # that a message lists
_MAX_NAME_BYTES = 255  # bytes of a file's name, on all file systems
_CONTROL_CATEGORIES = frozenset(
    {"Cc", "Zl", "Zp"}
)  # classes of control characters and ends of lines


class CocoImage(NamedTuple):
    """One image of a COCO file. size: (H, W) that its annotations are of, where it is given."""

    file_name: str
    size: Size | None
    objects: tuple[ListedAnnotation, ...]


class Image(msgspec.Struct, gc=False):
    """Entry of an image in a COCO file."""

    id: Id
    file_name: str | None = None
    width: int | float | str | None = None
    height: int | float | str | None = None
    coco_url: str | None = None

    @property
    def name(self) -> str:
        """The file's name; LVIS has only an address, of which the last two parts are one."""
        if self.file_name is not None or self.coco_url is None:
            return self.file_name or ""
        return "/".join(PurePosixPath(urlsplit(self.coco_url).path).parts[-2:])

    @property
    def size(self) -> Size | None:
        """(H, W), where both are given. Raises ValueError for numbers that are no size."""
        sides = [_parse_side(side) for side in (self.height, self.width)]
        return None if None in sides else (sides[0] or 0, sides[1] or 0)


class Category(msgspec.Struct):
    """Entry of a class in a COCO file."""

    id: Id
    name: str | int | float | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: Id = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    id: Id = None
    category_id: Id = None
    iscrowd: int | float | bool | str | None = None


class _File(msgspec.Struct):
    images: list[Image] | None
    annotations: list[_Annotation] | None
    categories: list[Category] | None = None


class _RunLengthCode(msgspec.Struct):
    size: Size
    counts: str | list[int]


_SEGMENTATION = msgspec.json.Decoder(list[list[float]] | _RunLengthCode | None)
_FLAT = msgspec.json.Decoder(list[float])
_PAIRS = msgspec.json.Decoder(list[list[tuple[float, float]]])


class _Sa1bAnnotation(msgspec.Struct):
    segmentation: _RunLengthCode
    id: int | str


class _Sa1bFile(msgspec.Struct):
    annotations: list[_Sa1bAnnotation]


def normalise_id(value: Id) -> int | str | None:
    """Return one spelling of an id: 1, 1.0 and "1" are the same."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        number = text.removeprefix("-")
        return int(text) if number.isdecimal() and str(int(number)) == number else text
    return value if value is None or isinstance(value, int) else str(value)


def _printable(value: Id) -> str:
    """An id in a message, on one line."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def _parse_side(value: int | float | str | None) -> int | None:
    """Pixels of a side; None where tools write nothing, 0 or -1."""
    try:
        number = float(value) if value not in {None, ""} else -1.0
    except OverflowError:
        number = float("inf")
    if not number.is_integer():
        raise ValueError(f"{value!r} is no number of pixels")
    return int(number) if number > 0 else None


def _parse_crowd(value: int | float | bool | str | None) -> bool:
    if isinstance(value, str):
        value = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1}.get(value.strip().lower(), -1)
    if value not in {None, 0, 1}:
        raise ValueError("iscrowd is neither 0 nor 1; write one of them")
    return bool(value)


class CocoFile:
    """A file of COCO's form. problems: a sentence for each thing in it that has no meaning.

    Raises RecordError for a file that is not of this form.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        text = json_bytes(path) if content is None else content
        file = _parse_coco(text, path)
        self._path = path
        self.problems: list[str] = []
        images, annotations = file.images or [], file.annotations or []
        self._names = self._categories(file.categories)
        twice = self._repeated("image", (image.id for image in images))
        twice_annotated = self._repeated("annotation", (item.id for item in annotations))
        self._images = [i for i in images if normalise_id(i.id) not in twice and self._is_named(i)]
        known = {normalise_id(image.id) for image in images}
        self._of_image: dict[int | str | None, list[_Annotation]] = defaultdict(list)
        for item in annotations:
            image_id = normalise_id(item.image_id)
            if image_id not in known:
                self._say(item, f"image_id {item.image_id!r} is that of no image; add the image")
            elif normalise_id(item.id) not in twice_annotated:
                self._of_image[image_id].append(item)

    def images(self) -> Iterator[CocoImage]:
        """Yield all images in the order of the file, each with its annotations."""
        for image in self._images:
            items = self._of_image.get(normalise_id(image.id), ())
            objects = [self._object(number, item) for number, item in enumerate(items)]
            try:
                size = image.size
            except ValueError as error:
                self.problems.append(
                    f"{self._path}: image {image.name!r}: width {image.width!r}, height "
                    f"{image.height!r}: {error}"
                )
                continue
            yield CocoImage(image.name, size, tuple(o for o in objects if o is not None))

    def _object(self, number: int, item: _Annotation) -> ListedAnnotation | None:
        name = normalise_id(item.id)
        category_id = normalise_id(item.category_id)
        category = None if category_id is None else self._names.get(category_id)
        if category is None and category_id is not None:
            if self._names:
                self._say(
                    item,
                    f"category_id {item.category_id!r} is that of no category; add the category",
                )
            category = str(category_id)
        try:
            crowd = _parse_crowd(item.iscrowd)
        except ValueError as error:
            self._say(item, str(error))
            return None
        return ListedAnnotation(
            str(number if name is None else name), category, crowd, item.segmentation
        )

    def _categories(self, categories: list[Category] | None) -> dict[int | str | None, str]:
        found = categories or []
        repeated = self._repeated("category", (category.id for category in found))
        if repeated:
            raise RecordError("\n".join(self.problems))
        return {
            normalise_id(c.id): str(normalise_id(c.id) if c.name in {None, ""} else c.name)
            for c in found
        }

    def _repeated(self, what: str, ids: Iterator[Id]) -> set[int | str]:
        """Ids that are there twice or more, each of them named."""
        counts = Counter(normalise_id(value) for value in ids)
        repeated = {value for value, n in counts.items() if n > 1 and value is not None}
        if repeated:
            shown = [repr(value) for value in list(counts) if value in repeated]
            listed = ", ".join(shown[:_MAX_SHOWN_IDS])
            more = f" and {len(shown) - _MAX_SHOWN_IDS} more" if len(shown) > _MAX_SHOWN_IDS else ""
            self.problems.append(
                f"{self._path}: {what} ids that are there twice: {listed}{more}; give each {what} "
                "an id of its own (exports that were joined need new ids in all but the first)"
            )
        return repeated

    def _is_named(self, image: Image) -> bool:
        if normalise_id(image.id) is None:
            self.problems.append(f"{self._path}: image {image.name!r} has no id; add it")
        elif any(unicodedata.category(letter) in _CONTROL_CATEGORIES for letter in image.name):
            self.problems.append(
                f"{self._path}: file_name {image.name!r} has a control character; rename the image"
            )
        elif any(len(part.encode()) > _MAX_NAME_BYTES for part in re.split(r"[/\\]", image.name)):
            self.problems.append(
                f"{self._path}: image {image.id!r}: file_name {image.name[:40]!r}... has "
                f"a part of more than {_MAX_NAME_BYTES} bytes; correct it"
            )
        elif not image.name:
            self.problems.append(f"{self._path}: image {image.id!r} has no file_name; add it")
        else:
            return True
        return False

    def _say(self, item: _Annotation, what: str) -> None:
        self.problems.append(f"{self._path}: annotation {_printable(item.id)}: {what}")


def coco_images(path: Path, content: bytes, problems: list[str]) -> list[CocoImage]:
    """Return the images of a COCO file in the order of the file, each with its annotations.

    content: of the file. problems: gets a sentence for each entry that is invalid.
    Raises RecordError for a file of another form.
    """
    file = CocoFile(path, content)
    images = list(file.images())
    problems += file.problems
    return images


def _parse_coco(text: bytes, path: Path) -> _File:
    try:
        return parse_json(text, path, _File, EXPECTED_FORM)
    except RecordError:
        head = text.lstrip()[:1]
        if head == b"[":
            raise RecordError(
                f"{path}: not {EXPECTED_FORM}: a list, as COCO's results are; give the file that "
                "has `images`, `annotations` and `categories`"
            ) from None
        raise


def read_coco(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read the annotations that a COCO file for all images has of this one."""
    (path,) = record.sources
    yield from _coco_annotations(path, record.size, record.objects, image)


def _coco_annotations(
    path: Path, size: Size | None, objects: tuple[ListedAnnotation, ...], image: ImageFacts
) -> Items:
    if size not in {None, image.size}:
        raise size_error(path, "the annotations are of", size or (0, 0), image)
    for item in objects:
        try:
            rle = encode_segmentation(item.segmentation, image.size)
        except ValueError as error:
            yield RecordError(f"{path}: annotation {_printable(item.segment_id)}: {error}")
        else:
            yield Annotation(item.segment_id, path, rle, item.category, item.crowd)


def read_coco_of_one(record: Record, image: ImageFacts, options: Data, text: bytes) -> Items:
    """Read a COCO file of one image. text: its content.

    Raises RecordError for a file of several images, of which none has the record's name.
    """
    (path,) = record.sources
    problems: list[str] = []
    images = coco_images(path, text, problems)
    for problem in problems:
        yield RecordError(problem)
    stem = PurePosixPath(record.image_id).name
    named = [i for i in images if PurePosixPath(i.file_name.replace("\\", "/")).stem == stem]
    if len(images) > 1 and len(named) != 1:
        raise RecordError(
            f"{path}: a COCO file of {len(images)} images, of which "
            f"{'several are' if named else 'none is'} called {stem!r}; if the file is a COCO file "
            "for all images, name it itself in place of its directory"
        )
    for one in named if len(images) > 1 else images:
        yield from _coco_annotations(path, one.size, one.objects, image)


def encode_segmentation(segmentation: msgspec.Raw, size: Size) -> bytes:
    """Return the run-length code of an annotation of an image of `size` (H, W).

    Raises ValueError that says what is wrong.
    """
    content = _decode_segmentation(segmentation)
    if not content:
        raise ValueError(
            "there is no segmentation; remove the annotation, add its polygon, or make masks of "
            "boxes with segment --boxes"
        )
    return (
        _encode_run_lengths(content, size)
        if isinstance(content, _RunLengthCode)
        else encode_polygons(content, size)
    )


def _decode_segmentation(segmentation: msgspec.Raw) -> list[list[float]] | _RunLengthCode | None:
    """Polygons in any of their forms, or a run-length code."""
    try:
        return _SEGMENTATION.decode(segmentation)
    except msgspec.ValidationError as error:
        dialects: list[Callable[[], list[list[float]]]] = [
            lambda: [_FLAT.decode(segmentation)],
            lambda: [[n for xy in polygon for n in xy] for polygon in _PAIRS.decode(segmentation)],
        ]
        for dialect in dialects:
            try:
                return dialect()
            except msgspec.ValidationError:
                continue
        raise ValueError(
            f"segmentation is neither polygons nor a run-length code ({error})"
        ) from None


def read_sa1b(record: Record, image: ImageFacts, options: Data, text: bytes) -> Items:
    """Read the file that SA-1B has beside each image. text: its content."""
    (path,) = record.sources
    for item in parse_json(text, path, _Sa1bFile, EXPECTED_FORM).annotations:
        try:
            yield Annotation(str(item.id), path, _encode_run_lengths(item.segmentation, image.size))
        except ValueError as error:
            yield RecordError(f"{path}: annotation {_printable(item.id)}: {error}")


def _encode_run_lengths(code: _RunLengthCode, size: Size) -> bytes:
    if code.size != size:
        found = "x".join(map(str, reversed(code.size)))
        raise ValueError(
            f"the mask is {found} pixels, its image {size[1]}x{size[0]}; "
            "export the masks at the size of the image"
        )
    if isinstance(code.counts, list):
        return encode_runs(code.counts, size)
    return check_code(code.counts.encode(), size)


def read_coco_json(path: Path, type_: type[_T]) -> _T:
    """Return the content of a JSON file of a form. Raises RecordError when it is of another."""
    return parse_json(json_bytes(path), path, type_, EXPECTED_FORM)
