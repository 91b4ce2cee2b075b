"""What a page is built of: sections with tables, pictures and texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import pandas as pd

from mobile_sam.report.pictures import Picture
from mobile_sam.report.words import DASH, MINUS

_MOST_IN_A_ROW = 6


class Column(NamedTuple):
    """A column of a table: its key in the frame, heading, format of numbers, and meaning."""

    key: str
    label: str
    format: str = ""
    meaning: str = ""


class Cell(NamedTuple):
    """Text as shown, and the number to sort by; None sorts as text."""

    text: str
    value: float | None = None
    missing: bool = False


@dataclass(frozen=True)
class Table:
    """A table that sorts.

    name: stem of the CSV beside the page, or empty for none. note: how to read it. marked: what the
    first column says in rows that stand out. folded: the words to unfold it by; empty: it is open.
    """

    kind: ClassVar[str] = "table"
    name: str
    columns: Sequence[Column]
    frame: pd.DataFrame
    note: str = ""
    marked: str = ""
    folded: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, which stand at the right."""
        return [bool(column.format) for column in self.columns]

    @property
    def rows(self) -> list[list[Cell]]:
        return [
            [_cell(row[column.key], column.format) for column in self.columns]
            for row in self.frame.to_dict("records")
        ]


@dataclass(frozen=True)
class Drawing:
    """A picture in the page."""

    kind: ClassVar[str] = "picture"
    picture: Picture


@dataclass(frozen=True)
class Text:
    """Words that keep their line breaks, folded up."""

    kind: ClassVar[str] = "text"
    folded: str
    words: str


@dataclass(frozen=True)
class Explained:
    """Names, each with what it means."""

    kind: ClassVar[str] = "explained"
    items: dict[str, str]
    folded: str = ""


@dataclass(frozen=True)
class View:
    """A shot for the page. cells: name, layer as a data URI or None, mean IoU or None."""

    title: str
    words: str
    width: int
    height: int
    photo: str
    outline: str
    cells: list[tuple[str, str | None, str]]
    chosen: str

    @property
    def per_row(self) -> int:
        """Cells side by side on paper: all of a few, half of many."""
        count = len(self.cells)
        return count if count <= _MOST_IN_A_ROW else -(-count // 2)


@dataclass(frozen=True)
class Views:
    """The gallery: names of layers in order, and groups of views by their titles and notes."""

    kind: ClassVar[str] = "gallery"
    names: list[str]
    groups: list[tuple[str, str, list[View]]]


Block = Table | Drawing | Text | Explained | Views


@dataclass(frozen=True)
class Section:
    """A part of the page. name: its anchor. note: what question it answers, in simple words."""

    name: str
    title: str
    note: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def _cell(value: Any, how: str) -> Cell:
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return Cell(DASH, None, missing=True)
    if not how:
        return Cell(str(value))
    text = how.format(value)
    if not text.strip("+-0.%"):  # nothing but zeros
        text = text.lstrip("+-")
    return Cell(text.replace("-", MINUS), float(value))
