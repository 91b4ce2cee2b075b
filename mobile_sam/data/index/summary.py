"""Summary of an index: numbers of images, segments and classes, and reasons for leaving out."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mobile_sam.data.index.table import (
    CROWDS,
    SPLITS,
    UNLABELLED,
    index_metadata,
    notes_path,
    open_index,
)

_COLUMNS = [
    *("split", "image", "image_id", "height", "width", "format", "class", "area", "left_out")
]
_MAX_SHOWN_CLASSES = 20
_EXAMPLES = 3
_MAX_SHOWN_NOTES = 12
_REASON_DETAILS = {
    CROWDS: ", neither objects nor background; set data.crowds to 'objects' to use them",
}


@dataclass(frozen=True)
class Summary:
    """Tables of the segments of an index, and of its images without masks.

    used: one row for each segment in use; columns split, image_id, height, width, format, class,
    area. unlabelled: one row for each image without masks, with the same columns.
    left_out: rows that are not used; column left_out has the reason.
    problems: a sentence for each broken file that `data.max_broken` tolerated.
    notes: sentences about files that were not read, or not read as their name suggests.
    """

    path: Path
    used: pd.DataFrame
    unlabelled: pd.DataFrame
    left_out: pd.DataFrame
    problems: list[str]
    notes: list[str]

    def objects_per_image(self, split: str) -> pd.Series:
        """Return the number of segments of each image of the split."""
        return self._of(split)["image"].value_counts(sort=False)

    def images(self, split: str) -> pd.DataFrame:
        """Return one row for each image of the split that has a segment in use."""
        return self._of(split).drop_duplicates("image")

    def text(self) -> str:
        """Return the summary as a table for a terminal."""
        columns = {split: dict(self._numbers(split)) for split in SPLITS}
        if len(self.unlabelled):
            columns[UNLABELLED] = dict(_image_counts(self.unlabelled))
        lines = [f"{self.path}", f"{'':<28}" + "".join(f" {split:>27}" for split in columns)]
        for name in dict.fromkeys(name for column in columns.values() for name in column):
            cells = (f" {column.get(name, '-'):>27}" for column in columns.values())
            lines.append(f"{name:<28}" + "".join(cells))
        lines += [*self._reasons(), *(f"refused: {problem}" for problem in self.problems)]
        lines += [f"note: {note}" for note in self.notes[:_MAX_SHOWN_NOTES]]
        if len(self.notes) > _MAX_SHOWN_NOTES:
            lines.append(
                f"... and {len(self.notes) - _MAX_SHOWN_NOTES} more in {notes_path(self.path)}"
            )
        return "\n".join(lines)

    def _of(self, split: str) -> pd.DataFrame:
        return self.used[self.used["split"] == split]

    def _numbers(self, split: str) -> Iterator[tuple[str, str]]:
        segments, images, per_image = (
            self._of(split),
            self.images(split),
            self.objects_per_image(split),
        )
        number, *sizes = _image_counts(images)
        yield number
        yield "segments", f"{len(segments)}"
        for name, count in images["format"].value_counts().items():
            if count:
                yield f"images read as {name}", f"{count}"
        yield from sizes
        yield "segments of an image", _format_range(per_image)
        yield "area, pixels", _format_range(segments["area"])
        yield "sqrt(area) / longest side", _format_range(relative_size(segments))
        classes = segments["class"].value_counts()
        for name, count in classes[classes > 0].head(_MAX_SHOWN_CLASSES).items():
            yield f"class {name}", f"{count}"
        if (classes > 0).sum() > _MAX_SHOWN_CLASSES:
            yield "other classes", f"{classes.iloc[_MAX_SHOWN_CLASSES:].sum()}"

    def _reasons(self) -> Iterator[str]:
        for (split, reason), rows in self.left_out.groupby(["split", "left_out"], observed=True):
            images = list(dict.fromkeys(rows["image_id"]))
            examples = ", ".join(images[:_EXAMPLES]) + (", ..." if len(images) > _EXAMPLES else "")
            details = _REASON_DETAILS.get(str(reason), "")
            yield f"left out of {split}: {len(rows)} {reason} ({examples}){details}"


def summarise(path: Path, notes: Iterable[str] = ()) -> Summary:
    """Return the summary of an index. Raises DatasetError when it is missing.

    notes: further notes, which are shown first.
    """
    file = open_index(path)
    table = file.read(columns=_COLUMNS).to_pandas(
        strings_to_categorical=True, split_blocks=True, self_destruct=True
    )
    used = table["left_out"].isna()
    problems = index_metadata(file)["problems"]
    unlabelled = table["split"] == UNLABELLED
    tables = table[used & ~unlabelled], table[used & unlabelled], table[~used]
    # Older indexes already have the note of near-duplicates.
    return Summary(path, *tables, problems, list(dict.fromkeys([*notes, *_read_notes(path)])))


def _read_notes(index: Path) -> list[str]:
    path = notes_path(index)
    if not path.is_file():
        return []
    return json.loads(path.read_text(encoding="utf-8"))["notes"]


def relative_size(segments: pd.DataFrame) -> pd.Series:
    """Return the square root of each segment's area, relative to the longest side of its image."""
    return np.sqrt(segments["area"]) / np.maximum(segments["height"], segments["width"])


def _image_counts(images: pd.DataFrame) -> Iterator[tuple[str, str]]:
    yield "images", f"{len(images)}"
    yield "width, pixels", _format_range(images["width"])
    yield "height, pixels", _format_range(images["height"])


def _format_range(values: pd.Series) -> str:
    """Format minimum, median and maximum; a single number if all values are equal."""
    least, median, most = values.min(), values.median(), values.max()
    if least == most:
        return f"{least:.4g}"
    return f"{_format_number(least)} / {_format_number(median)} / {_format_number(most)}"


def _format_number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
