"""Fonts for letters that matplotlib's default font lacks, such as Chinese ones."""

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

log = logging.getLogger(__name__)

DEFAULT = "DejaVu Sans"  # comes with matplotlib; Latin, Greek, Cyrillic, Arabic and Hebrew letters
_GLYPH = re.compile(r"Glyph (\d+) ")


def draw_with_fonts(draw: Callable[[], None], target: Path) -> None:
    """Draw, and draw again with fonts of this machine if letters are missing.

    draw: creates a figure and writes it. target: for the log, which names letters without a font.
    """
    missing = _missing_in(draw, [])
    if not missing:
        return
    families, missing = _families_of(missing)
    if families:
        missing = _missing_in(draw, families)
    if missing:
        letters = "".join(map(chr, sorted(missing)[:10]))
        log.warning(
            "%s: no installed font has the letters %s; install one that does, such as Noto Sans "
            "CJK, and draw the report again",
            *(target, letters),
        )


def without_warnings(draw: Callable[[], None]) -> None:
    """Draw without warnings about fonts; for SVG, where the browser selects fonts."""
    _missing_in(draw, [])


def _missing_in(draw: Callable[[], None], families: list[str]) -> set[int]:
    """Draw with additional fonts; return the letters that all of them lack."""
    # A dollar sign in a name does not start a formula.
    style: Any = {"font.family": [DEFAULT, *families], "text.parse_math": False}
    with mpl.rc_context(style), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draw()
    missing = set()
    for warning in caught:
        glyph = _GLYPH.match(str(warning.message))
        if glyph is None:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
        else:
            missing.add(int(glyph[1]))
    return missing


def _families_of(missing: set[int]) -> tuple[list[str], set[int]]:
    """Return installed font families that have the letters, and the letters that none has."""
    families, remaining = [], set(missing)
    for path in sorted(font_manager.findSystemFonts()):
        try:
            font = FT2Font(path)
        except RuntimeError:  # a format that FreeType cannot read
            continue
        has = remaining & font.get_charmap().keys()
        if has:
            font_manager.fontManager.addfont(path)
            families.append(font.family_name)
            remaining -= has
    return families, remaining
