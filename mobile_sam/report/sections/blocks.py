"""Building blocks of the page: sections with tables, figures and texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import pandas as pd

from mobile_sam.report.labels import DASH, MINUS
from mobile_sam.report.plots.figures import ReportFigure

_MAX_CELLS_PER_ROW = 6


class Column(NamedTuple):
    """Column of a table: key in the data frame, heading, number format, and tooltip."""

    key: str
    label: str
    format: str = ""
    description: str = ""


class Cell(NamedTuple):
    """Displayed text, and the number to sort by; None sorts as text."""

    text: str
    value: float | None = None
    missing: bool = False


@dataclass(frozen=True)
class Table:
    """Sortable table.

    name: stem of its CSV beside the page; empty: no CSV. note: how to read it. marked: value of the
    first column in highlighted rows. collapsed: label of the button that opens it; empty: it is
    open.
    """

    kind: ClassVar[str] = "table"
    name: str
    columns: Sequence[Column]
    frame: pd.DataFrame
    note: str = ""
    marked: str = ""
    collapsed: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Flags of the columns that hold numbers, which are right-aligned."""
        return [bool(column.format) for column in self.columns]

    @property
    def rows(self) -> list[list[Cell]]:
        return [
            [_cell(row[column.key], column.format) for column in self.columns]
            for row in self.frame.to_dict("records")
        ]


@dataclass(frozen=True)
class FigureBlock:
    """Figure in the page."""

    kind: ClassVar[str] = "picture"
    figure: ReportFigure


@dataclass(frozen=True)
class Text:
    """Preformatted text, collapsed."""

    kind: ClassVar[str] = "text"
    collapsed: str
    text: str


@dataclass(frozen=True)
class Definitions:
    """Terms with their definitions."""

    kind: ClassVar[str] = "explained"
    items: dict[str, str]
    collapsed: str = ""


@dataclass(frozen=True)
class GalleryItem:
    """Image of the gallery. cells: name, layer as a data URI or None, mean IoU or ""."""

    title: str
    caption: str
    width: int
    height: int
    photo: str
    outline: str
    cells: list[tuple[str, str | None, str]]
    initial_layer: str

    @property
    def per_row(self) -> int:
        """Number of cells per printed row: all of a few, half of many."""
        count = len(self.cells)
        return count if count <= _MAX_CELLS_PER_ROW else -(-count // 2)


@dataclass(frozen=True)
class Gallery:
    """Gallery: names of layers in order, and groups of images with titles and notes."""

    kind: ClassVar[str] = "gallery"
    names: list[str]
    groups: list[tuple[str, str, list[GalleryItem]]]


Block = Table | FigureBlock | Text | Definitions | Gallery


@dataclass(frozen=True)
class Section:
    """Section of the page. name: its anchor. note: what it shows."""

    name: str
    title: str
    note: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def _cell(value: Any, number_format: str) -> Cell:
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return Cell(DASH, None, missing=True)
    if not number_format:
        return Cell(str(value))
    text = number_format.format(value)
    if not text.strip("+-0.%"):  # only zeros
        text = text.lstrip("+-")
    return Cell(text.replace("-", MINUS), float(value))
