"""The page as a browser shows it; skipped where there is none, unless MOBILE_SAM_NEED_BROWSER=1."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator

from mobile_sam.report.labels import DASH, MINUS
from tests.helpers.browsers import Opened, started_browser

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 360, "height": 740}
browser = pytest.fixture(scope="module")(started_browser)


@pytest.fixture(params=["light", "dark"])
def opened(browser: Browser, page: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    yield from open_page(browser, page, request.param, scripts=True)


@pytest.fixture
def without_scripts(browser: Browser, page: Path) -> Iterator[Opened]:
    yield from open_page(browser, page, "light", scripts=False)


def open_page(browser: Browser, path: Path, scheme: str, scripts: bool) -> Iterator[Opened]:
    one = Opened.blank(browser, viewport=WIDE, color_scheme=scheme, java_script_enabled=scripts)
    one.page.goto(path.as_uri())
    yield one
    assert one.complaints == []
    assert [url for url in one.requests if not url.startswith(("file:", "data:"))] == []
    one.page.context.close()


def test_every_picture_loads(opened: Opened) -> None:
    images = opened.page.evaluate(
        "[...document.images].map(image => [image.complete, image.naturalWidth])"
    )
    assert len(images) >= 20
    assert all(complete and width > 0 for complete, width in images)
    photos = opened.page.evaluate(
        """Promise.all([...document.querySelectorAll('.shot')].flatMap(shot =>
          ['--photo', '--outline'].map(async name => {
            const image = new Image();
            image.src = shot.style.getPropertyValue(name).slice(4, -1);
            await image.decode();
            return image.naturalWidth;
          })))"""
    )
    assert len(photos) >= 8
    assert min(photos) > 0
    drawn = opened.page.evaluate(
        "[...document.querySelectorAll('.panels svg')].map(svg => svg.getBoundingClientRect())"
    )
    assert len(drawn) >= 15
    assert all(box["width"] > 200 and box["height"] > 80 for box in drawn)


def test_lines_and_letters_show_on_their_ground(opened: Opened) -> None:
    dark = opened.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    letters, ground = opened.page.evaluate(
        """[getComputedStyle(document.querySelector('.panels svg text')).fill,
            getComputedStyle(document.body).backgroundColor]
           .map(colour => colour.match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 3)"""
    )
    assert (letters > 200 and ground < 50) if dark else (letters < 50 and ground > 200)


def column(table: Locator, place: int) -> list[str]:
    return table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()


def test_tables_sort_up_and_down_with_what_is_missing_last(opened: Opened) -> None:
    table = opened.page.locator("#results table").first
    before = column(table, 1)
    heading = table.locator("thead th").nth(3)
    assert heading.inner_text().split() == ["mIoU,", "point"]
    assert heading.get_attribute("aria-sort") == "none"
    assert DASH in column(table, 4)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    *values, last = column(table, 4)
    assert last == DASH
    assert [float(v) for v in values] == sorted(map(float, values), reverse=True)
    assert column(table, 1) != before
    heading.locator("button").focus()
    opened.page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    *values, last = column(table, 4)
    assert last == DASH
    assert [float(v) for v in values] == sorted(map(float, values))
    names = table.locator("thead th").nth(0)
    names.locator("button").click()
    assert (names.get_attribute("aria-sort"), heading.get_attribute("aria-sort")) == (
        "ascending",
        "none",
    )
    assert column(table, 1) == sorted(before)


def test_numbers_sort_by_value_and_not_by_letters(opened: Opened) -> None:
    table = opened.page.locator("#differences table")
    table.locator("thead th").nth(4).locator("button").click()
    values = [float(v.replace(MINUS, "-")) for v in column(table, 5)]
    assert min(values) < 0 < max(values)
    assert values == sorted(values, reverse=True)


def shown(shot: Locator) -> list[str]:
    """What of a shot can be seen."""
    return shot.evaluate(
        """shot => [...shot.querySelectorAll('.cell')]
             .filter(cell => getComputedStyle(cell).visibility === 'visible')
             .map(cell => cell.querySelector('.label').textContent.split(' ')[0])"""
    )


def test_an_image_switches_between_its_overlays(opened: Opened) -> None:
    first, second = (opened.page.locator(".shot").nth(n) for n in (0, 1))
    assert shown(first) == shown(second) == ["01_finetune"]
    seen = first.locator(".stack").screenshot()
    first.locator("label", has_text="teacher").click()
    assert shown(first) == ["teacher"]
    assert shown(second) == ["01_finetune"]
    assert first.locator(".stack").screenshot() != seen
    opened.page.keyboard.press("ArrowRight")
    assert shown(first) == ["image"]


def test_one_switch_is_for_the_whole_gallery(opened: Opened) -> None:
    shots = opened.page.locator(".shot")
    opened.page.locator(".all label", has_text="ground truth").click()
    assert {*map(str, shown(shots.nth(0))), *map(str, shown(shots.nth(5)))} == {"ground"}
    shots.nth(0).locator("label", has_text="start").click()
    assert opened.page.locator(".all input:checked").count() == 0


def test_the_outline_of_the_truth_can_be_left_out(opened: Opened) -> None:
    stack = opened.page.locator(".shot .stack").first
    seen = stack.screenshot()
    opened.page.locator("label", has_text="outline of the ground truth").click()
    assert stack.screenshot() != seen


def test_overlays_switch_without_scripts(without_scripts: Opened) -> None:
    first = without_scripts.page.locator(".shot").first
    seen = first.locator(".stack").screenshot()
    first.locator("label", has_text="start").click()
    assert first.locator(".stack").screenshot() != seen
    assert not without_scripts.page.locator(".all").is_visible()


@pytest.mark.parametrize("unfolded", [False, True])
def test_a_phone_scrolls_in_one_direction(opened: Opened, unfolded: bool) -> None:
    opened.page.set_viewport_size(NARROW)
    if unfolded:
        opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    assert width <= NARROW["width"]
    scrolls = opened.page.evaluate(
        "[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)"
    )
    assert scrolls


def test_paper_has_every_overlay_and_what_is_folded(opened: Opened) -> None:
    collapsed = opened.page.locator("details pre").first
    assert not collapsed.evaluate("element => element.checkVisibility()")
    opened.page.emulate_media(media="print")
    first = opened.page.locator(".shot").first
    assert len(shown(first)) == first.locator(".cell").count() == 8
    places = first.evaluate(
        """shot => new Set([...shot.querySelectorAll('.cell')]
             .map(cell => JSON.stringify(cell.getBoundingClientRect()))).size"""
    )
    assert places == 8
    assert not opened.page.locator(".controls").is_visible()
    unfolded = opened.page.evaluate(
        "[...document.querySelectorAll('details > :not(summary)')].map(e => e.checkVisibility())"
    )
    assert len(unfolded) >= 4
    assert all(unfolded)
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground in {"rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"}
