"""The app in Chromium: really clicked, and its masks compared with those of `SamPredictor`."""

import base64
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from mobile_sam.config.run import RunConfig
from mobile_sam.data.images import read_image
from mobile_sam.evaluation.from_run import load_checkpoint_model
from mobile_sam.inference.automatic_masks import automatic_masks
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.proposals import AutomaticOptions
from mobile_sam.paths import RunPaths
from tests.helpers.browsers import Opened, started_browser
from tests.helpers.images import draw_image

pytestmark = pytest.mark.browser

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
FIRST = ["start", "00_distill", "01_finetune_best", "teacher"]
browser = pytest.fixture(scope="module")(started_browser)


@dataclass
class Running:
    """The app in a process of its own. temporary: the directory of its temporary files."""

    process: subprocess.Popen[str]
    url: str
    temporary: Path


@pytest.fixture(scope="module")
def running(trained: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    temporary = tmp_path_factory.mktemp("temporary")
    process = subprocess.Popen(
        [sys.executable, "-m", "mobile_sam", "app", "--run", str(RunPaths(trained).run)],
        stdout=subprocess.PIPE,
        text=True,
        # Nothing listens at this proxy, which many networks ask for, and nothing needs it.
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary), "http_proxy": "http://127.0.0.1:9"},
    )
    assert process.stdout is not None
    url, _, rest = process.stdout.readline().partition(" ")
    assert rest.strip() == "(stop with Ctrl-C)"
    yield Running(process, url, temporary)
    process.kill()
    process.wait()


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """The page, with the first example and a card of each model."""
    yield from open_page(browser, running, viewport=WIDE)


def open_page(browser: Browser, running: Running, **context: Any) -> Iterator[Page]:
    one = Opened.blank(browser, **context)
    one.page.goto(running.url)
    expect(one.page.locator(".card.answer")).to_have_count(len(FIRST))
    yield one.page
    assert one.complaints == []
    assert len(one.requests) > 10
    assert [url for url in one.requests if not url.startswith((running.url, "data:"))] == []
    one.page.context.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 90 x 120 pixels that is in no index."""
    return draw_image(tmp_path_factory.mktemp("photo") / "my photo.png", 120, 90, seed=5)


def upload(page: Page, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)
    expect(page.locator(".hint")).to_contain_text(f"{path.stem} (120")
    expect(page.locator(".download")).to_have_count(0)
    expect(page.locator(".card.answer")).to_have_count(len(FIRST))


def card(page: Page, model: str) -> Locator:
    return page.locator(f".card[data-model='{model}']")


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """A place on the screen, from shares of the image."""
    box = page.locator(".frame img").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def asked(page: Page, shape: str, *names: str) -> list[list[float]]:
    """Numbers of what is drawn on the image, in its pixels."""
    found = page.locator(f".frame svg {shape}").all()
    return [[float(one.get_attribute(name) or "") for name in names] for one in found]


def downloaded(page: Page, model: str) -> tuple[str, np.ndarray]:
    with page.expect_download() as waiting:
        card(page, model).locator(".download").click()
    content = waiting.value.path().read_bytes()
    return waiting.value.suggested_filename, np.asarray(Image.open(io.BytesIO(content)))


def predictor(config: RunConfig, model: str, path: Path) -> SamPredictor:
    made = SamPredictor(load_checkpoint_model(config, model), config.mask_threshold)
    made.set_image(read_image(path))
    return made


def pictures(page: Page) -> list[str]:
    return page.locator(".shown img").evaluate_all("all => all.map(image => image.src)")


def test_masks_of_clicks_are_those_of_the_predictor(
    page: Page, trained: RunConfig, photo: Path
) -> None:
    upload(page, photo)
    plain = pictures(page)
    page.mouse.click(*at(page, 0.3, 0.4))
    expect(page.locator(".download")).to_have_count(len(FIRST))
    one_point = pictures(page)
    assert [a != b for a, b in zip(plain, one_point, strict=True)] == [True] * len(FIRST)
    page.mouse.click(*at(page, 0.8, 0.7), button="right")
    expect(page.locator(".frame svg circle")).to_have_count(2)
    expect(card(page, "teacher").locator(".shown img")).not_to_have_attribute("src", one_point[-1])
    (on,), (off,) = (asked(page, f"circle.{kind}", "cx", "cy") for kind in ("on", "off"))
    assert np.allclose(on, [0.3 * 120, 0.4 * 90], atol=0.5)
    assert np.allclose(off, [0.8 * 120, 0.7 * 90], atol=0.5)
    for model in FIRST:
        name, pixels = downloaded(page, model)
        assert name == f"my photo_{model}.png"
        found = predictor(trained, model, photo).predict(
            np.array([on, off]), np.array([1, 0]), multimask_output=False
        )
        assert np.array_equal(pixels, found.masks[0] * 255)
        words = card(page, model).locator("dl").inner_text()
        assert f"{found.predicted_iou[0]:.3f}" in words
        assert "ms" in words
    page.get_by_role("button", name="Undo").click()
    expect(card(page, "teacher").locator(".shown img")).to_have_attribute("src", one_point[-1])
    assert pictures(page) == one_point


def test_of_quick_clicks_the_last_is_answered(page: Page, trained: RunConfig, photo: Path) -> None:
    upload(page, photo)
    for number in range(6):
        page.mouse.click(*at(page, 0.1 + 0.1 * number, 0.6))
    on = asked(page, "circle.on", "cx", "cy")
    assert len(on) == 6
    found = predictor(trained, "teacher", photo).predict(
        np.array(on), np.ones(6, dtype=int), multimask_output=False
    )
    expect(card(page, "teacher")).to_contain_text(f"{found.predicted_iou[0]:.3f}")
    assert np.array_equal(downloaded(page, "teacher")[1], found.masks[0] * 255)


def test_a_box_is_two_clicks_or_a_drag(page: Page, trained: RunConfig, photo: Path) -> None:
    upload(page, photo)
    page.get_by_role("button", name="Box").click()
    page.mouse.click(*at(page, 0.7, 0.8))
    page.mouse.click(*at(page, 0.2, 0.3))
    expect(page.locator(".download")).to_have_count(len(FIRST))
    (box,) = asked(page, "rect.box", "x", "y", "width", "height")
    assert np.allclose(box, [24, 27, 60, 45], atol=1)
    _, pixels = downloaded(page, "01_finetune_best")
    corners = np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]])
    made = predictor(trained, "01_finetune_best", photo)
    found = made.predict(box=corners, multimask_output=False)
    assert np.array_equal(pixels, found.masks[0] * 255)
    before = pictures(page)
    page.get_by_role("button", name="Object", exact=True).click()
    page.mouse.move(*at(page, 0.1, 0.1))
    page.mouse.down()
    page.mouse.move(*at(page, 0.5, 0.5), steps=3)
    page.mouse.up()
    expect(card(page, "teacher").locator(".shown img")).not_to_have_attribute("src", before[-1])
    (box,) = asked(page, "rect.box", "x", "y", "width", "height")
    assert np.allclose(box, [12, 9, 48, 36], atol=1)
    page.get_by_label("Best of three masks").check()
    made = predictor(trained, "teacher", photo)
    best = made.predict(box=np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]]))
    expect(card(page, "teacher")).to_contain_text(f"{best.predicted_iou.max():.3f}")


def test_the_truth_of_an_example_is_asked_for_and_measured(page: Page) -> None:
    page.locator("[data-example='1']").click()
    expect(page.locator(".hint")).to_contain_text("scene_00001")
    expect(page.locator(".tags button").first).to_be_visible()
    page.locator("[data-box='0']").click()
    expect(page.locator(".card")).to_have_count(1 + len(FIRST))
    assert page.locator(".card h3").first.inner_text().startswith("ground truth")
    expect(page.locator("dt", has_text="measured IoU")).to_have_count(len(FIRST))
    page.get_by_label("00_distill", exact=True).uncheck()
    expect(page.locator(".card")).to_have_count(len(FIRST))
    expect(card(page, "00_distill")).to_have_count(0)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card dt", has_text="IoU")).to_have_count(0)


def test_everything_is_found_without_a_prompt(page: Page, trained: RunConfig, photo: Path) -> None:
    upload(page, photo)
    page.get_by_text("Automatic masks").click()
    page.wait_for_timeout(300)  # gradio sets sliders once more when they are unfolded
    for label, value in (
        ("Points per side", 4),
        ("Minimum predicted", 0),
        ("Minimum stability", 0),
    ):
        page.get_by_label(f"number input for {label}").fill(str(value))
        page.get_by_label(f"number input for {label}").press("Enter")
        expect(page.get_by_label(f"number input for {label}")).to_have_value(str(value))
    page.get_by_role("button", name="Segment everything").click()
    expect(page.locator(".download")).to_have_count(len(FIRST))
    options = AutomaticOptions(
        4,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        mask_threshold=trained.mask_threshold,
    )
    counts = []
    for model in FIRST:
        found = automatic_masks(load_checkpoint_model(trained, model), read_image(photo), options)
        words = card(page, model).locator("dl div", has_text="masks").inner_text().split()
        assert sorted(words) == [str(len(found)), "masks"]
        counts.append(len(found))
        name, labels = downloaded(page, model)
        assert name == f"my photo_{model}_labels.png"
        assert labels.shape == (90, 120)
        assert 1 < len(np.unique(labels)) <= 1 + len(found)
    assert len(set(counts)) > 1


@pytest.mark.parametrize(
    ("event", "carrier"), [("drop", "dataTransfer"), ("paste", "clipboardData")]
)
def test_an_image_is_dropped_or_pasted(page: Page, photo: Path, event: str, carrier: str) -> None:
    page.evaluate(
        """([content, event, carrier]) => {
          const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], 'brought.png', {type: 'image/png'}));
          const made = new Event(event, {bubbles: true, cancelable: true});
          made[carrier] = data;
          document.querySelector('.ground').dispatchEvent(made);
        }""",
        [base64.b64encode(photo.read_bytes()).decode(), event, carrier],
    )
    expect(page.locator(".hint")).to_contain_text("brought (120")


def test_what_is_no_image_is_said_and_the_page_goes_on(page: Page, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.png"
    wrong.write_text("no image")
    page.locator("input[type=file]").set_input_files(wrong)
    expect(page.get_by_text("wrong.png: the image cannot be read")).to_be_visible()
    page.mouse.click(*at(page, 0.5, 0.5))
    expect(page.locator(".download")).not_to_have_count(0)


def test_a_picture_grows_and_stays_large_in_the_next_answer(page: Page) -> None:
    def width() -> float:
        box = card(page, "teacher").locator(".shown img").bounding_box()
        return 0.0 if box is None else box["width"]

    small = width()
    card(page, "teacher").locator(".shown").click()
    assert width() > 1.8 * small
    page.mouse.click(*at(page, 0.5, 0.5))
    expect(page.locator(".download")).not_to_have_count(0)
    assert width() > 1.8 * small
    card(page, "teacher").locator(".shown").click()
    assert width() == small


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_show_on_their_ground(browser: Browser, running: Running, scheme: Any) -> None:
    for page in open_page(browser, running, viewport=WIDE, color_scheme=scheme):
        letters, ground = page.evaluate(
            """[getComputedStyle(document.querySelector('.card h3')).color,
                getComputedStyle(document.body).backgroundColor]
               .map(colour => colour.match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 3)"""
        )
        bright, dim = (letters, ground) if scheme == "dark" else (ground, letters)
        assert bright > 200
        assert dim < 50


def test_a_phone_scrolls_in_one_direction_and_taps(browser: Browser, running: Running) -> None:
    context = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    for page in open_page(browser, running, **context):
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"]
        page.touchscreen.tap(*at(page, 0.5, 0.5))
        expect(page.locator(".download")).not_to_have_count(0)
        places = ("#canvas", "#answers", "#options")
        boxes = [page.locator(place).bounding_box() for place in places]
        tops = [box["y"] for box in boxes if box is not None]
        assert len(tops) == len(places)
        assert tops == sorted(tops)


def test_no_file_of_the_machine_is_served(page: Page, running: Running, trained: RunConfig) -> None:
    for path in ("/etc/hostname", str(RunPaths(trained).weights), str(Path.cwd() / "README.md")):
        answer = page.request.get(f"{running.url}gradio_api/file={path}")
        assert answer.status in {403, 404}


def test_ctrl_c_ends_it_and_nothing_is_left(
    running: Running, browser: Browser, photo: Path
) -> None:
    for page in open_page(browser, running):
        upload(page, photo)
    assert list(running.temporary.glob("mobile_sam-*/**/*.png"))
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 0
    assert list(running.temporary.glob("mobile_sam-*")) == []
