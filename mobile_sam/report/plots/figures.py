"""Figures with the style of each checkpoint.

Each figure is a PNG and a CSV beside the page, and SVG panels in the page that follow its colours.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mobile_sam.data.overlays import COLOURS
from mobile_sam.report.inputs.report_data import Checkpoint
from mobile_sam.report.plots.fonts import draw_with_fonts, without_warnings

GREY = "#8A8A8A"  # legible on white and black
# Yellow is hard to see on white.
_LINE_COLOURS = COLOURS[:6]
_DASHES = ("-", "--", ":", "-.")  # once all colours are used
_MARKERS = "os^Dvp*X"


@dataclass(frozen=True)
class Style:
    """Style of a line: matplotlib's colour, dashes and marker."""

    colour: str
    dashes: str
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib for a line without markers."""
        return {"color": self.colour, "linestyle": self.dashes}


def line_style(number: int) -> Style:
    """Return the style of the n-th line of a figure; the first 24 are distinct."""
    count = len(_LINE_COLOURS)
    dashes = _DASHES[number // count % len(_DASHES)]
    return Style(_LINE_COLOURS[number % count], dashes, _MARKERS[number % len(_MARKERS)])


def styles(checkpoints: Sequence[Checkpoint]) -> dict[str, Style]:
    """Return the style of each checkpoint in all figures of a page; the filled box is grey."""
    models = [checkpoint.name for checkpoint in checkpoints if checkpoint.kind != "baseline"]
    baselines = [checkpoint.name for checkpoint in checkpoints if checkpoint.kind == "baseline"]
    return {name: Style(GREY, "--", "|") for name in baselines} | {
        name: line_style(number) for number, name in enumerate(models)
    }


mpl.use("Agg")

_INK = "#1b1b1c"  # replaced with the text colour of the page
_PER_ROW = 2
_STYLE: Any = {
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.color": "#8a8a8a",
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "mobile_sam",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}

Panel = Callable[[Axes], None]


@dataclass(frozen=True)
class ReportFigure:
    """Panels that belong together.

    name: stem of its files. alt: text alternative. note: how to read it. table: its values.
    key: the style of each line, by its label. height, width: inches of a panel.
    """

    name: str
    alt: str
    note: str
    panels: tuple[Panel, ...]
    table: pd.DataFrame
    key: dict[str, Style] = field(default_factory=dict)
    height: float = 2.7
    width: float = 4.1

    def write(self, directory: Path) -> None:
        """Write `<name>.png`, with all panels and the key, and `<name>.csv`."""
        self.table.to_csv(directory / f"{self.name}.csv", index=False)
        target = directory / f"{self.name}.png"
        with mpl.rc_context(_STYLE):
            draw_with_fonts(lambda: self._draw(target), target)

    def _draw(self, target: Path) -> None:
        columns = min(_PER_ROW, max(1, len(self.panels)))
        rows = -(-len(self.panels) // columns)
        extra = 0.25 * -(-len(self.key) // 4)
        size = (self.width * columns, self.height * rows + extra)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, panel in zip(grid, self.panels, strict=False):
            panel(axes)
        for axes in grid[len(self.panels) :]:
            axes.set_axis_off()
        if self.key:
            handles = [_handle(style, label) for label, style in self.key.items()]
            figure.legend(
                handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8
            )
        figure.savefig(target, dpi=130, metadata={"Software": None})

    def svgs(self) -> list[Markup]:
        """Return each panel as an SVG element without external references."""
        return [_svg(panel, (self.width, self.height)) for panel in self.panels]

    @property
    def swatches(self) -> list[tuple[str, str, str]]:
        """Legend of the page: label, colour, and the dash array of SVG."""
        arrays = {"-": "none", "--": "6 3", ":": "2 2", "-.": "6 2 2 2", "": "none"}
        return [(label, style.colour, arrays[style.dashes]) for label, style in self.key.items()]


def label_plainly(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, such as 0.1, 0.2 and 0.5."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _handle(style: Style, label: str) -> Line2D:
    return Line2D([], [], linewidth=2, label=label, **style.line)


def _svg(panel: Panel, size: tuple[float, float]) -> Markup:
    buffer = io.StringIO()

    def draw() -> None:
        figure = Figure(figsize=size, layout="constrained")
        panel(figure.subplots())
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )

    with mpl.rc_context(_STYLE):
        without_warnings(draw)  # the browser selects fonts
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Groups have the same ids in every figure; clips and markers are named after their content.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"([^>]*?) height="[^"]*"', r"\1\2", text, count=1)
    # matplotlib escapes its text.
    return Markup(text.replace(_INK, "currentColor").strip())  # noqa: S704
