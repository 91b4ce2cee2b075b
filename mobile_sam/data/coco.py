"""JSON of COCO's form, and that of SA-1B: polygons and run-length codes.

Of a COCO file the segmentations stay undecoded until their image is read, so that a file of a
million objects takes little more memory than its text.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from mobile_sam.data.images import RecordError
from mobile_sam.data.masks import Size, check_code, encode_polygons, encode_runs

_T = TypeVar("_T")


class CocoObject(NamedTuple):
    """One annotation. segmentation: JSON text of polygons or of a run-length code."""

    segment_id: str
    category: str | None
    crowd: bool
    segmentation: msgspec.Raw


class CocoImage(NamedTuple):
    """One image of a COCO file. size: (H, W) that its annotations are of."""

    file_name: str
    size: Size
    objects: tuple[CocoObject, ...]


class Image(msgspec.Struct, gc=False):
    """What a COCO file says of an image."""

    id: int | str
    file_name: str
    width: int
    height: int


class Category(msgspec.Struct):
    """What a COCO file says of a class."""

    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    id: int | str | None = None
    category_id: int | None = None
    iscrowd: int = 0


class _File(msgspec.Struct):
    images: list[Image]
    annotations: list[_Annotation]
    categories: list[Category] = []


class _RunLengthCode(msgspec.Struct):
    size: Size
    counts: str | list[int]


_SEGMENTATION = msgspec.json.Decoder(list[list[float]] | _RunLengthCode | None)


class _Sa1bAnnotation(msgspec.Struct):
    segmentation: _RunLengthCode
    id: int | str


class _Sa1bFile(msgspec.Struct):
    annotations: list[_Sa1bAnnotation]


class CocoFile:
    """A file of COCO's form. problems: a sentence for each annotation that belongs to nothing.

    Raises RecordError for a file that is not of this form.
    """

    def __init__(self, path: Path) -> None:
        content = decoded(path, _File)
        names = {category.id: category.name for category in content.categories}
        of_image = defaultdict(list)
        for annotation in content.annotations:
            of_image[annotation.image_id].append(annotation)
        self._images, self._of_image, self._names = content.images, of_image, names
        self.problems = [
            f"{path}: annotation {annotation.id}: {what}"
            for image_id in of_image.keys() - {image.id for image in content.images}
            for annotation in of_image[image_id]
            for what in [f"image_id {image_id!r} is that of no image; add the image"]
        ] + [
            f"{path}: annotation {annotation.id}: category_id {annotation.category_id} is that of "
            "no category; add the category"
            for annotation in content.annotations
            if annotation.category_id is not None and annotation.category_id not in names
        ]

    def images(self) -> Iterator[CocoImage]:
        """All images, in the order of the file, each with its annotations."""
        for image in self._images:
            objects = tuple(
                CocoObject(
                    str(number if annotation.id is None else annotation.id),
                    None
                    if annotation.category_id is None
                    else self._names.get(annotation.category_id),
                    bool(annotation.iscrowd),
                    annotation.segmentation,
                )
                for number, annotation in enumerate(self._of_image.get(image.id, ()))
            )
            yield CocoImage(image.file_name, (image.height, image.width), objects)


def coco_code(segmentation: msgspec.Raw, size: Size) -> bytes:
    """Run-length code of an annotation of an image of `size` (H, W).

    Raises ValueError that says what is wrong.
    """
    try:
        content = _SEGMENTATION.decode(segmentation)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"segmentation is neither polygons nor a run-length code ({error})"
        ) from None
    if not content:
        raise ValueError(
            "there is no segmentation; remove the annotation, add its polygon, or make masks of "
            "boxes with segment --boxes"
        )
    return (
        _code(content, size)
        if isinstance(content, _RunLengthCode)
        else encode_polygons(content, size)
    )


def sa1b_codes(path: Path, size: Size) -> Iterator[tuple[str, bytes | ValueError]]:
    """Name and run-length code of each annotation of an SA-1B file, or what is wrong with it.

    Raises RecordError for a file that is not of this form.
    """
    for annotation in decoded(path, _Sa1bFile).annotations:
        try:
            yield str(annotation.id), _code(annotation.segmentation, size)
        except ValueError as error:
            yield str(annotation.id), error


def _code(code: _RunLengthCode, size: Size) -> bytes:
    if code.size != size:
        found = "x".join(map(str, reversed(code.size)))
        raise ValueError(
            f"the mask is {found} pixels, its image {size[1]}x{size[0]}; "
            "export the masks at the size of the image"
        )
    if isinstance(code.counts, list):
        return encode_runs(code.counts, size)
    return check_code(code.counts.encode(), size)


def decoded(path: Path, type_: type[_T]) -> _T:
    """The content of a JSON file of a form. Raises RecordError when it is not of this form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(
            f"{path}: not annotations as COCO or SA-1B have them ({error})"
        ) from error
