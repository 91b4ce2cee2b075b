"""Names in any script are drawn as they are written."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.axes import Axes
from PIL import Image

from mobile_sam.report.plots.figures import ReportFigure
from mobile_sam.report.plots.fonts import draw_with_fonts

FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"
RARE = "\N{LATIN SMALL LETTER K WITH PALATAL HOOK}"  # in STIXGeneral, not in DejaVu Sans
NOWHERE = "\N{LINEAR B SYLLABLE B008 A}"


def picture(title: str) -> ReportFigure:
    def panel(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set_title(title)

    return ReportFigure("names", "", "", (panel,), pd.DataFrame())


def pixels(title: str, directory: Path) -> np.ndarray:
    picture(title).write(directory)
    return np.asarray(Image.open(directory / "names.png").convert("L"))


@pytest.fixture(autouse=True)
def fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(FONTS / "STIXGeneral.ttf"), str(FONTS / "DejaVuSans.ttf")]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)


def test_a_letter_of_another_font_is_drawn_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = pixels(f"cell {RARE}", tmp_path)
    assert not np.array_equal(found, pixels(f"cell {NOWHERE}", tmp_path))
    with mpl.rc_context({"font.family": ["DejaVu Sans", "STIXGeneral"]}):
        caplog.clear()
        assert np.array_equal(found, pixels(f"cell {RARE}", tmp_path))
    assert caplog.text == ""


def test_a_letter_of_no_font_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels(f"{NOWHERE}{NOWHERE}", tmp_path)
    assert len(caplog.records) == 1
    assert f"names.png: no installed font has the letters {NOWHERE}; install one" in caplog.text


def test_dollars_begin_no_formula(tmp_path: Path) -> None:
    found = pixels("a$b$c", tmp_path)
    # As wide as its five letters; a formula would be drawn of b alone, and slanted.
    columns = np.flatnonzero((found < 128).any(0))
    plain = np.flatnonzero((pixels("a8b8c", tmp_path) < 128).any(0))
    assert np.ptp(columns) == pytest.approx(np.ptp(plain), abs=3)
    assert "a$b$c" in picture("a$b$c").svgs()[0]
    pixels("price_$_1", tmp_path)  # one alone, and a lone backslash
    pixels(r"a\b_$", tmp_path)


def test_letters_from_right_to_left_are_shaped(tmp_path: Path) -> None:
    """Two letters side by side join; apart they have other forms."""
    concat_objects = (pixels("\N{ARABIC LETTER BEH}" * 2, tmp_path) < 128).any(0)
    apart = (pixels("\N{ARABIC LETTER BEH}\u200c\N{ARABIC LETTER BEH}", tmp_path) < 128).any(0)
    assert concat_objects.sum() != apart.sum()
    first = pixels("\N{HEBREW LETTER ALEF}\N{HEBREW LETTER VAV}", tmp_path)
    # Alef is wide and stands right, vav is narrow and stands left.
    columns = np.flatnonzero((first < 128).any(0))
    gaps = np.flatnonzero(np.diff(columns) > 1)
    left, right = columns[: gaps[0] + 1], columns[gaps[0] + 1 :]
    assert len(left) < len(right)


def test_other_warnings_are_still_given(tmp_path: Path) -> None:
    import warnings

    with pytest.warns(UserWarning, match="something else"):
        draw_with_fonts(lambda: warnings.warn("something else", stacklevel=1), tmp_path)
