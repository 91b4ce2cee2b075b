"""Segments as a reader finds them, and whether two readers agree."""

from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco

from mobile_sam.data.formats.annotation import Annotation

Size = tuple[int, int]  # (H, W) in pixels


class NoMeaningError(Exception):
    """An annotation that cannot be read in one way."""


@dataclass(frozen=True)
class Segment:
    """One segment. inner: pixels (H, W) that it covers; outer: those that it may cover.

    name, segment_id: None where the reader cannot tell; class_known: whether `name` is the class.
    """

    inner: np.ndarray
    outer: np.ndarray
    name: str | None = None
    crowd: bool = False
    segment_id: str | None = None
    value: str | None = None

    def is_of(self, given: Annotation) -> bool:
        """Whether an annotation of the package is this segment."""
        mask = coco.decode({"size": list(self.inner.shape), "counts": given.rle}).astype(bool)
        return (
            not (self.inner & ~mask).any()
            and not (mask & ~self.outer).any()
            and (self.name, self.crowd) == (given.category, given.crowd)
            and self.segment_id in {None, given.segment_id}
            and self.value in {None, given.value}
        )

    def __str__(self) -> str:
        cells = "\n".join("".join(".#"[int(c)] for c in row) for row in self.inner)
        return f"{self.segment_id} {self.name} {self.value} crowd={self.crowd}\n{cells}"


@dataclass
class Reading:
    """What an independent reader finds of each image, by the id of the image.

    complete: whether all that is there has one meaning. sure: whether a complete reading may not be
    refused. unknown: whether the reader cannot tell at all.
    """

    segments: dict[str, list[Segment]] = field(default_factory=dict)
    complete: bool = True
    sure: bool = True
    unknown: bool = False

    def missed(self) -> None:
        """Remember that something has no meaning, and has to be named."""
        self.complete = False


@dataclass
class Given:
    """What the package gives: segments of each image, and sentences."""

    segments: dict[str, list[Annotation]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def exactly(mask: np.ndarray, **facts: object) -> Segment:
    """Return a segment of just these pixels (H, W)."""
    return Segment(mask, mask, **facts)  # type: ignore[arg-type]


def disagreement(given: Given, reading: Reading, unmutated: bool) -> str | None:
    """Say where the package differs from the independent reader; None where it does not."""
    if reading.unknown:
        return None
    for image_id in {*given.segments, *reading.segments}:
        found, there = given.segments.get(image_id, []), reading.segments.get(image_id, [])
        difference = _difference(found, there, bool(given.problems))
        if difference is not None:
            return f"{image_id}: {difference}"
    if not (given.problems or reading.complete):
        return "something without a meaning is passed over without a word"
    if given.problems and unmutated and reading.complete and reading.sure:
        return f"a sound file is refused: {given.problems}"
    return None


def _difference(found: list[Annotation], there: list[Segment], excused: bool) -> str | None:
    """Say which segment of an image only one side has. excused: whether some may be missing."""
    left = list(there)
    for annotation in found:
        match = next((n for n, one in enumerate(left) if one.is_of(annotation)), None)
        if match is None:
            others = "\n".join(map(str, left))
            return f"{shown(annotation, there)} is none of\n{others}"
        left.pop(match)
    return f"{left[0]} is not given, and nothing is said" if left and not excused else None


def shown(annotation: Annotation, there: list[Segment]) -> str:
    """Describe a segment of the package. there: segments of the same image."""
    told = f"{annotation.segment_id} {annotation.category} {annotation.value} {annotation.crowd}"
    if not there:
        return f"{told} {annotation.rle!r}"
    code = {"size": list(there[0].inner.shape), "counts": annotation.rle}
    return str(exactly(coco.decode(code).astype(bool), name=told))
