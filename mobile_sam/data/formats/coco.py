"""JSON of COCO, its dialects and SA-1B: polygons and run-length codes.

Tools write ids as numbers or as text, crowds as 0 or false, sizes as 96.0 or not at all. All
unambiguous variants are read; duplicate ids and references to missing entries are problems. In a
file for all images, segmentations stay undecoded until their image is read, so that a file of a
million objects takes little more memory than its text.

COCO: Lin et al., arXiv:1405.0312; LVIS: Gupta et al., arXiv:1908.03195; SA-1B: Kirillov et al.,
arXiv:2304.02643.
"""

import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import msgspec

from mobile_sam.config.sections import Data
from mobile_sam.data.formats.annotation import Annotation, Items, format_size, size_error
from mobile_sam.data.formats.text_files import parse_json
from mobile_sam.data.images import ImageFacts, RecordError
from mobile_sam.data.masks import Size, check_code, encode_polygons, encode_runs
from mobile_sam.data.record import ListedAnnotation, ListedImage, Record

Id = int | float | str | None
EXPECTED_FORM = "annotations in the format of COCO or SA-1B"
_MAX_SHOWN_IDS = 10  # ids that a message lists
_CONTROL_CATEGORIES = frozenset({"Cc", "Zl", "Zp"})  # control characters and line separators


class Image(msgspec.Struct, gc=False):
    """Entry of an image in a COCO file."""

    id: Id
    file_name: str | None = None
    width: int | float | str | None = None
    height: int | float | str | None = None
    coco_url: str | None = None

    @property
    def name(self) -> str:
        """Return the file name; for LVIS, the last two parts of the image's address."""
        if self.file_name is not None or self.coco_url is None:
            return self.file_name or ""
        try:
            path = urlsplit(self.coco_url).path
        except ValueError:  # not an address
            return ""
        return "/".join(PurePosixPath(path).parts[-2:])

    @property
    def size(self) -> Size | None:
        """Return (H, W); None unless both are given. Raises ValueError for an invalid size."""
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
    """Return the canonical form of an id: 1, 1.0 and "1" are the same."""
    if type(value) is int:  # most ids, of a million annotations
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        text = value.strip()
        number = text.removeprefix("-")
        is_short = len(number) <= sys.int_info.default_max_str_digits  # else `int` raises
        is_number = number.isdecimal() and is_short and str(int(number)) == number
        return int(text) if is_number else text
    return value if value is None or isinstance(value, int) else str(value)


def _printable(value: Id) -> str:
    """Return an id for a message, on one line."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def _parse_side(value: int | float | str | None) -> int | None:
    """Return the pixels of a side; None for a missing value, 0 and -1."""
    try:
        number = float(value) if value not in {None, ""} else -1.0
    except OverflowError:
        number = float("inf")
    if not number.is_integer():
        raise ValueError(f"{value!r} is not a number of pixels; correct it")
    return int(number) if number > 0 else None


def _parse_crowd(value: int | float | bool | str | None) -> bool:
    if isinstance(value, str):
        value = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1}.get(value.strip().lower(), -1)
    if value not in {None, 0, 1}:
        raise ValueError("iscrowd is neither 0 nor 1; write one of them")
    return bool(value)


class _CocoFile:
    """COCO file for several images. problems: list to which sentences on invalid entries are added.

    Raises RecordError for a file of another format.
    """

    def __init__(self, path: Path, content: bytes, problems: list[str]) -> None:
        file = _parse_coco(content, path)
        self._path, self._problems = path, problems
        images, annotations = file.images or [], file.annotations or []
        self._names = self._categories(file.categories)
        repeated_images = self._repeated("image", (image.id for image in images))
        repeated = self._repeated("annotation", (item.id for item in annotations))
        self._images = [
            image
            for image in images
            if normalise_id(image.id) not in repeated_images and self._is_named(image)
        ]
        known = {normalise_id(image.id) for image in images}
        self._of_image: dict[int | str | None, list[_Annotation]] = defaultdict(list)
        for item in annotations:
            image_id = normalise_id(item.image_id)
            if image_id not in known:
                self._add_problem(
                    item, f"image_id {item.image_id!r} matches no image; add the image"
                )
            elif normalise_id(item.id) not in repeated:
                self._of_image[image_id].append(item)

    def images(self) -> Iterator[ListedImage]:
        """Yield all images in the order of the file, each with its annotations."""
        for image in self._images:
            items = self._of_image.get(normalise_id(image.id), ())
            objects = [self._object(number, item) for number, item in enumerate(items)]
            try:
                size = image.size
            except ValueError as error:
                self._problems.append(
                    f"{self._path}: image {image.name!r}: width {image.width!r}, height "
                    f"{image.height!r}: {error}"
                )
                continue
            yield ListedImage(image.name, size, tuple(o for o in objects if o is not None))

    def _object(self, number: int, item: _Annotation) -> ListedAnnotation | None:
        name = normalise_id(item.id)
        category_id = normalise_id(item.category_id)
        category = None if category_id is None else self._names.get(category_id)
        if category is None and category_id is not None:
            if self._names:
                self._add_problem(
                    item, f"category_id {item.category_id!r} matches no category; add the category"
                )
            category = str(category_id)
        try:
            crowd = _parse_crowd(item.iscrowd)
        except ValueError as error:
            self._add_problem(item, str(error))
            return None
        return ListedAnnotation(
            str(number if name is None else name), category, crowd, item.segmentation
        )

    def _categories(self, categories: list[Category] | None) -> dict[int | str | None, str]:
        categories = categories or []
        if self._repeated("category", (category.id for category in categories)):
            raise RecordError("\n".join(self._problems))
        return {
            normalise_id(c.id): str(normalise_id(c.id) if c.name in {None, ""} else c.name)
            for c in categories
        }

    def _repeated(self, noun: str, ids: Iterator[Id]) -> set[int | str]:
        """Return the ids that occur more than once, and add a problem that lists them."""
        values = [normalise_id(value) for value in ids]
        if len(set(values)) == len(values):  # without counting a million of them
            return set()
        counts = Counter(values)
        repeated = {value for value, n in counts.items() if n > 1 and value is not None}
        if repeated:
            shown = [repr(value) for value in list(counts) if value in repeated]
            listed = ", ".join(shown[:_MAX_SHOWN_IDS])
            more = f" and {len(shown) - _MAX_SHOWN_IDS} more" if len(shown) > _MAX_SHOWN_IDS else ""
            self._problems.append(
                f"{self._path}: duplicate {noun} ids: {listed}{more}; give each {noun} a different "
                "id (in merged exports, renumber all but the first)"
            )
        return repeated

    def _is_named(self, image: Image) -> bool:
        if normalise_id(image.id) is None:
            self._problems.append(f"{self._path}: image {image.name!r} has no id; add it")
        elif not image.name.isprintable() and any(
            unicodedata.category(letter) in _CONTROL_CATEGORIES for letter in image.name
        ):
            self._problems.append(
                f"{self._path}: file_name {image.name!r} has a control character; rename the image"
            )
        elif not image.name:
            self._problems.append(f"{self._path}: image {image.id!r} has no file_name; add it")
        else:
            return True
        return False

    def _add_problem(self, item: _Annotation, message: str) -> None:
        self._problems.append(f"{self._path}: annotation {_printable(item.id)}: {message}")


def coco_images(path: Path, content: bytes, problems: list[str]) -> list[ListedImage]:
    """Return the images of a COCO file in the order of the file, each with its annotations.

    content: text of the file. problems: list to which a sentence for each invalid entry is added.
    Raises RecordError for a file of another format.
    """
    return list(_CocoFile(path, content, problems).images())


def _parse_coco(text: bytes, path: Path) -> _File:
    try:
        return parse_json(text, path, _File, EXPECTED_FORM)
    except RecordError:
        if text.lstrip()[:1] == b"[":
            raise RecordError(
                f"{path}: not {EXPECTED_FORM}: the file is a list, as in COCO's results format; "
                "give the file that has `images`, `annotations` and `categories`"
            ) from None
        raise


def read_coco(record: Record, image: ImageFacts, options: Data) -> Items:
    """Read the annotations of one image from a COCO file for all images."""
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

    Raises RecordError for a file of several images if not exactly one has the record's name.
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
            f"{path}: the file has {len(images)} images, of which "
            f"{'several are' if named else 'none is'} called {stem!r}; if the file is a COCO file "
            "for all images, give its path instead of its directory's"
        )
    for one in named if len(images) > 1 else images:
        yield from _coco_annotations(path, one.size, one.objects, image)


def encode_segmentation(segmentation: msgspec.Raw, size: Size) -> bytes:
    """Return the run-length code of a segmentation in an image of `size` (H, W).

    Raises ValueError for an invalid segmentation.
    """
    content = _decode_segmentation(segmentation)
    if not content:
        raise ValueError(
            "there is no segmentation; remove the annotation, add its polygon, or make masks from "
            "boxes with `segment --boxes`"
        )
    return (
        _encode_run_lengths(content, size)
        if isinstance(content, _RunLengthCode)
        else encode_polygons(content, size)
    )


def _decode_segmentation(segmentation: msgspec.Raw) -> list[list[float]] | _RunLengthCode | None:
    """Return polygons, which may be flat or pairs of coordinates, or a run-length code."""
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
            f"segmentation is neither polygons nor a run-length code ({error}); export it again"
        ) from None


def read_sa1b(record: Record, image: ImageFacts, options: Data, text: bytes) -> Items:
    """Read the SA-1B file of one image. text: its content."""
    (path,) = record.sources
    for item in parse_json(text, path, _Sa1bFile, EXPECTED_FORM).annotations:
        try:
            yield Annotation(str(item.id), path, _encode_run_lengths(item.segmentation, image.size))
        except ValueError as error:
            yield RecordError(f"{path}: annotation {_printable(item.id)}: {error}")


def _encode_run_lengths(code: _RunLengthCode, size: Size) -> bytes:
    if code.size != size:
        raise ValueError(
            f"the mask is {format_size(code.size)} pixels, its image {format_size(size)}; "
            "export the masks at the size of the image"
        )
    if isinstance(code.counts, list):
        return encode_runs(code.counts, size)
    return check_code(code.counts.encode(), size)
