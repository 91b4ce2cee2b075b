"""Results of every annotation format: segments as run-length codes, or problems as sentences."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobile_sam.data.images import ImageFacts, RecordError


@dataclass(frozen=True, slots=True)
class Annotation:
    """One segment. rle: its code at the size of the image; category: the name of its class.

    value: what marks it in a label map.
    """

    segment_id: str
    source: Path
    rle: bytes
    category: str | None = None
    crowd: bool = False
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence about something that is left out as it is no segment, such as a key point."""

    text: str


# A segment, or what is wrong with one; the others of the image are read all the same.
Items = Iterator[Annotation | RecordError | Note]


def size_error(path: Path, what: str, found: tuple[float, float], image: ImageFacts) -> RecordError:
    """Return the error for annotations of (H, W) `found` that are not of their image's size.

    what: `the mask is`, `the annotations are`.
    """
    if image.orientation != 1 and found == image.stored_size:
        return RecordError(
            f"{path}: {what} {format_size(found)} pixels, its image {format_size(image.size)} "
            f"after its EXIF orientation ({image.orientation}) is applied: the annotations lie on "
            "the unturned image; set data.exif_orientation to 'ignore', or annotate the upright "
            "image"
        )
    return RecordError(
        f"{path}: {what} {format_size(found)} pixels, its image {format_size(image.size)}; "
        "export the masks at the size of the image"
    )


def format_size(size: tuple[float, ...]) -> str:
    """Return (H, W) as people write it: `640x480`, the width first."""
    return "x".join(str(n) for n in reversed(size[:2]))
