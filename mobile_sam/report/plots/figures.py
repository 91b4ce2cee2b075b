"""Pictures: each a PNG and a CSV beside the page, and panels in the page that take its colours."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mobile_sam.report.colours import Style

mpl.use("Agg")

_INK = "#1b1b1c"  # becomes the text colour of the page
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
class Picture:
    """Some panels that belong together.

    name: stem of its files. alt: what it shows, for those who do not see it. note: how to read it.
    table: the numbers behind it. key: the style of each line, by its label. height: inches of a
    panel, and its width.
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
        columns = min(_PER_ROW, max(1, len(self.panels)))
        rows = -(-len(self.panels) // columns)
        extra = 0.25 * -(-len(self.key) // 4)
        size = (self.width * columns, self.height * rows + extra)
        with mpl.rc_context(_STYLE):
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
            figure.savefig(directory / f"{self.name}.png", dpi=130, metadata={"Software": None})

    def svgs(self) -> list[Markup]:
        """Each panel as an SVG element without references to anything."""
        return [_svg(panel, (self.width, self.height)) for panel in self.panels]

    @property
    def swatches(self) -> list[tuple[str, str, str]]:
        """The key for the page: label, colour, and the dash array of SVG."""
        arrays = {"-": "none", "--": "6 3", ":": "2 2", "-.": "6 2 2 2", "": "none"}
        return [(label, style.colour, arrays[style.dashes]) for label, style in self.key.items()]


def _handle(style: Style, label: str) -> Line2D:
    return Line2D([], [], linewidth=2, label=label, **style.line)


def _svg(panel: Panel, size: tuple[float, float]) -> Markup:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        panel(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Groups have the same ids in every picture; clips and markers are named by what they hold.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"([^>]*?) height="[^"]*"', r"\1\2", text, count=1)
    # Own text of matplotlib is escaped by it.
    return Markup(text.replace(_INK, "currentColor").strip())  # noqa: S704
