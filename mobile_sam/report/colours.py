"""The style of each checkpoint in all pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mobile_sam.data.overlays import COLOURS
from mobile_sam.report.measured import What

GREY = "#8A8A8A"  # legible on white and on black
# Yellow is weak on white: lines do without it.
_OF_LINES = COLOURS[:6]
_DASHES = ("-", "--", ":", "-.")  # when colours are used up
_MARKERS = "os^Dvp*X"


@dataclass(frozen=True)
class Style:
    """How a line is drawn: matplotlib's colour, dashes and marker."""

    colour: str
    dashes: str
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """What matplotlib needs to draw a line without markers."""
        return {"color": self.colour, "linestyle": self.dashes}


def numbered(number: int) -> Style:
    """The style of the n-th line of a picture; no two of the first 24 are the same."""
    count = len(_OF_LINES)
    dashes = _DASHES[number // count % len(_DASHES)]
    return Style(_OF_LINES[number % count], dashes, _MARKERS[number % len(_MARKERS)])


def styles(whats: Sequence[What]) -> dict[str, Style]:
    """A style for each, the same in all pictures of a page; the filled box is grey."""
    models = [what.name for what in whats if what.kind != "baseline"]
    baselines = [what.name for what in whats if what.kind == "baseline"]
    return {name: Style(GREY, "--", "|") for name in baselines} | {
        name: numbered(number) for number, name in enumerate(models)
    }
