"""Items that readers of annotation formats yield: segments, problems and notes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobile_sam.data.images import ImageFacts, RecordError


@dataclass(frozen=True, slots=True)
class Annotation:
    """One segment.

    rle: run-length code at the size of the image. category: name of the class.
    value: number or colour of the segment in a label map.
    """

    segment_id: str
    source: Path
    rle: bytes
    category: str | None = None
    crowd: bool = False
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Sentence about an annotation that is skipped because it is not a segment (a key point)."""

    text: str


# A segment, or the problem with one; reading continues with the next one.
Items = Iterator[Annotation | RecordError | Note]


def size_error(
    path: Path, subject: str, size: tuple[float, float], image: ImageFacts
) -> RecordError:
    """Return the error for annotations whose size (H, W) differs from that of their image.

    subject: beginning of the message, `the mask is` or `the annotations are of`.
    """
    if image.orientation != 1 and size == image.stored_size:
        return RecordError(
            f"{path}: {subject} {format_size(size)} pixels, its image {format_size(image.size)} "
            f"after its EXIF orientation ({image.orientation}) is applied: the annotations fit the "
            "image as stored; set data.exif_orientation to 'ignore', or annotate the upright image"
        )
    return RecordError(
        f"{path}: {subject} {format_size(size)} pixels, its image {format_size(image.size)}; "
        "export the masks at the size of the image"
    )


def format_size(size: tuple[float, ...]) -> str:
    """Return (H, W) as text with the width first: `640x480`."""
    return "x".join(str(n) for n in reversed(size[:2]))
