"""The page of `export --web` in Chromium, beside the predictor of the same bundle."""

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, expect

from mobile_sam.download.files import FetchError
from mobile_sam.export.predictor import OnnxPredictor, image_to_model_frame, resize
from mobile_sam.export.web_page import runtime_archive
from mobile_sam.inference.grid import point_grid
from mobile_sam.metrics.overlap import iou
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original
from tests.helpers.browsers import Opened, skip_or_fail, started_browser
from tests.helpers.commands import verb
from tests.helpers.images import draw_image

pytestmark = pytest.mark.browser

WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}
HINT = "Point at an object, or drag a box around it."
browser = pytest.fixture(scope="module")(started_browser)


class Server(ThreadingHTTPServer):
    """Serves a directory on loopback. headers: that each answer has beside its own."""

    def __init__(self, directory: Path, headers: dict[str, str]) -> None:
        class Handler(SimpleHTTPRequestHandler):
            def end_headers(self) -> None:
                for name, value in headers.items():
                    self.send_header(name, value)
                super().end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture(scope="module")
def site(unlabelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a site, with the page of a tiny model below it at `some/where`."""
    try:
        archive = runtime_archive()
    except FetchError as error:
        skip_or_fail(str(error))
    directory = tmp_path_factory.mktemp("site")
    model = build_sam_model("tiny_sam", 64, seed=3)
    for network in model.mask_decoder.output_hypernetworks_mlps:
        # Masks as sure as those of a trained model.
        network.get_parameter("layers.2.weight").data *= 3000
    torch.save(to_original(model), directory / "tiny.pt")
    options = ["--img-size", "64", "--images", unlabelled, "--runtime", archive, "--int8"]
    target = directory / "some" / "where"
    result = verb("export", "--weights", directory / "tiny.pt", "--web", target, *options)
    assert result.returncode == 0, result.stderr
    return directory


@pytest.fixture(scope="module")
def predictor(site: Path) -> OnnxPredictor:
    return OnnxPredictor(site / "some" / "where" / "model", threads=1)


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[Server]:
    server = Server(site, {})
    yield server
    server.shutdown()


@pytest.fixture
def opened(browser: Browser, server: Server) -> Iterator[Opened]:
    yield from open_page(browser, f"{server.url}some/where/", viewport=WIDE)


def open_page(browser: Browser, address: str, **context: Any) -> Iterator[Opened]:
    """The page with its first image encoded. At the end nothing was said or asked elsewhere."""
    one = Opened.blank(browser, **context)
    one.page.goto(address)
    expect(one.page.locator("#stage")).to_have_attribute("aria-busy", "false")
    expect(one.page.locator("#status")).to_have_text(HINT)
    yield one
    assert one.complaints == []
    assert len(one.requests) > 10
    assert [url for url in one.requests if not url.startswith((address, "blob:"))] == []
    one.page.context.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that is no square, larger than the model's frame."""
    return draw_image(tmp_path_factory.mktemp("photo") / "my photo.png", 150, 100, seed=5)


def choose_file(opened: Opened, path: Path) -> None:
    opened.page.locator("#encoder").evaluate("element => element.textContent = 'unknown'")
    opened.page.locator("#file").set_input_files(path)
    expect(opened.page.locator("#encoder")).to_contain_text("ms")
    expect(opened.page.locator("#stage")).to_have_attribute("aria-busy", "false")
    expect(opened.page.locator("#status")).to_have_text(HINT)


def at(opened: Opened, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a place of the image is, in shares of its width and height."""
    box = opened.page.locator("#stage").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def drag(opened: Opened, start: tuple[float, float], end: tuple[float, float]) -> None:
    mouse = opened.page.mouse
    mouse.move(*at(opened, *start))
    mouse.down()
    mouse.move(*at(opened, *end), steps=3)
    mouse.up()


def wait_for_answer(opened: Opened) -> None:
    expect(opened.page.locator("#download")).to_be_enabled()
    expect(opened.page.locator("#masks")).to_have_attribute("aria-busy", "false")


def prompt_of(opened: Opened) -> dict[str, Any]:
    """The prompt that is drawn on the page, as arguments of `OnnxPredictor.predict`."""
    points = opened.page.locator(".point").evaluate_all(
        """all => all.map(({dataset, classList}) =>
             [+dataset.x, +dataset.y, classList.contains('object')])"""
    )
    boxes = opened.page.locator(".box").evaluate_all(
        "all => all.map(({dataset}) => JSON.parse(dataset.box))"
    )
    return {
        "point_coords": [point[:2] for point in points] if points else None,
        "point_labels": [int(point[2]) for point in points] if points else None,
        "box": boxes[0] if boxes else None,
    }


def downloaded(opened: Opened, index: int | None = None) -> NDArray[np.bool_]:
    """The mask that the page writes. index: of the four; None: the one that it has chosen."""
    wait_for_answer(opened)
    button = opened.page.get_by_role("button", name="Download mask")
    if index is not None:
        opened.page.locator(f"[name=mask][value='{index}']").check(force=True)
    with opened.page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename == "my photo_mask.png"
    pixels = np.asarray(Image.open(download.value.path()).convert("L"))
    assert set(np.unique(pixels)) == {0, 255}
    return pixels > 127


def answers(predictor: OnnxPredictor, photo: Path, prompt: dict[str, Any]) -> list[Any]:
    """The predictor's four masks (4, H, W), the single one first, and predicted_iou (4,)."""
    predictor.set_image(np.asarray(Image.open(photo)))
    single, three = (predictor.predict(**prompt, multimask_output=m) for m in (False, True))
    return [np.concatenate(parts) for parts in list(zip(single, three, strict=True))[:2]]


def test_masks_of_a_click_are_those_of_the_predictor(
    opened: Opened, photo: Path, predictor: OnnxPredictor
) -> None:
    choose_file(opened, photo)
    opened.page.mouse.click(*at(opened, 0.4, 0.6))
    first = downloaded(opened)
    prompt = prompt_of(opened)
    np.testing.assert_allclose(prompt["point_coords"], [[60, 60]], atol=1)
    assert (prompt["point_labels"], prompt["box"]) == ([1], None)
    masks, predicted_iou = answers(predictor, photo, prompt)
    assert iou(first, masks[1 + np.argmax(predicted_iou[1:])]) >= 0.99
    for index in range(4):
        assert 0.02 < masks[index].mean() < 0.98
        assert iou(downloaded(opened, index), masks[index]) >= 0.99
    said = opened.page.locator("#masks .iou").all_inner_texts()
    np.testing.assert_allclose([float(text) for text in said], predicted_iou, atol=0.006)


def test_masks_of_a_box_and_points_are_those_of_the_predictor(
    opened: Opened, photo: Path, predictor: OnnxPredictor
) -> None:
    choose_file(opened, photo)
    drag(opened, (0.8, 0.9), (0.2, 0.3))
    prompt = prompt_of(opened)
    np.testing.assert_allclose(prompt["box"], [30, 30, 120, 90], atol=1)
    of_box = downloaded(opened)
    assert iou(of_box, answers(predictor, photo, prompt)[0][0]) >= 0.99
    opened.page.keyboard.down("Shift")
    opened.page.mouse.click(*at(opened, 0.5, 0.5))
    opened.page.keyboard.up("Shift")
    expect(opened.page.locator(".point.other")).to_have_count(1)
    opened.page.mouse.click(*at(opened, 0.3, 0.7))
    expect(opened.page.locator(".point.object")).to_have_count(1)
    prompt = prompt_of(opened)
    assert (prompt["point_labels"], len(prompt["box"])) == ([0, 1], 4)
    wait_for_answer(opened)
    masks, _ = answers(predictor, photo, prompt)
    assert iou(downloaded(opened, 0), masks[0]) >= 0.99
    assert iou(of_box, masks[0]) < 0.99


def test_pixels_reach_the_model_as_in_python(opened: Opened) -> None:
    draw = np.random.default_rng(1)
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    for size in [(100, 150), (37, 91), (64, 64), (300, 40), (16, 9)]:
        image = draw.integers(0, 256, (*size, 3)).astype(np.uint8)
        image[draw.random(size) < 0.3] = 255
        opaque = np.dstack([image, np.full(size, 255, np.uint8)])
        resized, frame = opened.page.evaluate(
            """async ([rgba, size, other, side, mean, std]) => {
              const { resize, withoutAlpha, imageToModelFrame } = await import("./frame.js");
              return [[...resize(withoutAlpha(rgba), size, other)],
                      [...imageToModelFrame(rgba, size, side, mean, std)]];
            }""",
            [opaque.ravel().tolist(), size, (83, 61), 64, mean, std],
        )
        np.testing.assert_array_equal(resized, resize(image, (83, 61)).ravel())
        wanted = image_to_model_frame(image, 64, mean, std)
        np.testing.assert_allclose(frame, wanted.ravel(), rtol=1e-5, atol=1e-6)


def test_everything_is_found_without_a_prompt(
    opened: Opened, photo: Path, predictor: OnnxPredictor
) -> None:
    choose_file(opened, photo)
    opened.page.get_by_role("button", name="Segment everything").click()
    status = opened.page.locator("#status")
    expect(status).to_contain_text("masks have this predicted IoU or more")
    count = int(status.inner_text().split()[0])
    assert count >= 1
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name="Download label map").click()
    assert download.value.suggested_filename == "my photo_labels.png"
    labels = np.asarray(Image.open(download.value.path()).convert("L"))
    assert count in np.unique(labels)
    assert labels.max() == count
    predictor.set_image(np.asarray(Image.open(photo)))
    points = point_grid(16) * [150, 100]
    masks = [predictor.predict([point], [1])[0] for point in points]
    assert max(iou(labels == count, mask) for three in masks for mask in three) >= 0.99
    opened.page.locator("#least").fill("1")
    expect(status).to_contain_text("0 of")
    opened.page.mouse.click(*at(opened, 0.5, 0.5))
    expect(opened.page.locator("#found")).to_be_hidden()
    wait_for_answer(opened)
    assert len(prompt_of(opened)["point_coords"]) == 1


def test_of_masks_of_one_thing_the_best_is_kept(opened: Opened) -> None:
    logits = np.full((6, 16, 16), -9.0, np.float32)
    logits[0, 2:6, 2:6] = 9  # the same, but not so good as the next
    logits[1, 2:6, 2:7] = 9
    logits[2, 8:, 8:] = 9
    logits[3, 8:, :4] = 0.5  # not stable
    logits[4, :2, 12:] = 9  # with a row in the padding of an image of 48 x 64 pixels
    logits[4, 12:, 12:] = 9
    kept = opened.page.evaluate(
        """async (all) => {
          const { Candidates } = await import("./candidates.js");
          const candidates = new Candidates([96, 128], 64, 16, 0);
          const ious = [0.4, 0.9, 0.5, 0.99, 0.3, 0.99];
          all.forEach((one, k) => candidates.add(Float32Array.from(one), ious[k], { index: k }));
          return candidates.best().map(({ index, area }) => [index, area]);
        }""",
        logits.reshape(6, -1).tolist(),
    )
    assert kept == [[1, 20], [2, 32], [4, 8]]


def painted(opened: Opened) -> int:
    """How many pixels of the mask on the page are not empty."""
    return opened.page.evaluate(
        """() => { const mask = document.querySelector('#mask');
          const canvas = new OffscreenCanvas(mask.width, mask.height);
          const context = canvas.getContext('2d', { willReadFrequently: true });
          context.drawImage(mask, 0, 0);
          return context.getImageData(0, 0, mask.width, mask.height).data
            .filter((value, k) => k % 4 === 3 && value > 0).length }"""
    )


def test_undo_and_clear_take_back(opened: Opened) -> None:
    points, file = opened.page.locator(".point"), opened.page.locator("#download")
    undo = opened.page.get_by_role("button", name="Undo")
    expect(undo).to_be_disabled()
    for count in (1, 2):
        opened.page.mouse.click(*at(opened, 0.3 * count, 0.5))
        expect(points).to_have_count(count)
    undo.click()
    expect(points).to_have_count(1)
    expect(file).to_be_enabled()
    opened.page.get_by_role("button", name="Clear").click()
    expect(points).to_have_count(0)
    expect(file).to_be_disabled()
    assert painted(opened) == 0
    undo.click()
    expect(points).to_have_count(1)


def test_what_a_click_would_give_is_shown_before(opened: Opened) -> None:
    opened.page.mouse.move(*at(opened, 0.5, 0.5))
    expect(opened.page.locator("#mask")).to_have_class("preview")
    assert painted(opened) > 100
    expect(opened.page.locator("#download")).to_be_disabled()
    opened.page.mouse.move(5, 5)
    expect(opened.page.locator("#mask")).not_to_have_class("preview")
    assert painted(opened) == 0


def test_keys_do_what_the_mouse_does(opened: Opened) -> None:
    opened.page.locator("#stage").focus()
    press = opened.page.keyboard.press
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter", "ArrowLeft", "Shift+Enter"):
        press(key)
    expect(opened.page.locator("#download")).to_be_enabled()
    prompt = prompt_of(opened)
    assert prompt["point_labels"] == [1, 0]
    np.testing.assert_allclose(prompt["point_coords"], [[33.28, 33.28], [32, 33.28]], atol=0.01)
    press("u")
    for key in ("b", "ArrowRight", "ArrowDown", "ArrowDown", "b"):
        press(key)
    np.testing.assert_allclose(prompt_of(opened)["box"], [32, 33.28, 33.28, 35.84], atol=0.01)
    press("Escape")
    expect(opened.page.locator(".point, .box")).to_have_count(0)


def test_another_form_answers_the_same_prompt(opened: Opened) -> None:
    opened.page.mouse.click(*at(opened, 0.4, 0.6))
    size = opened.page.locator("#bytes").inner_text()
    wait_for_answer(opened)
    said = opened.page.locator("#masks .iou").all_inner_texts()
    opened.page.locator("#form").select_option("int8")
    expect(opened.page.locator("#bytes")).not_to_have_text(size)
    expect(opened.page.locator("#status")).to_contain_text("Predicted IoU")
    assert opened.page.locator("#masks .iou").all_inner_texts() != said
    assert [url for url in opened.requests if "encoder_int8.onnx" in url]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_taps_and_scrolls_in_one_direction(
    browser: Browser, server: Server, scheme: str
) -> None:
    context = {"viewport": PHONE, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    for opened in open_page(browser, f"{server.url}some/where/", **context):
        opened.page.touchscreen.tap(*at(opened, 0.5, 0.5))
        expect(opened.page.locator(".point.object")).to_have_count(1)
        wait_for_answer(opened)
        width = opened.page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"]


def test_the_browser_refuses_other_servers(opened: Opened, site: Path) -> None:
    """Also to the worker, which has the image: that none is asked is no accident."""
    other = Server(site, {"Access-Control-Allow-Origin": "*"})
    (worker,) = opened.page.workers
    for place in (opened.page, worker):
        refused = place.evaluate(
            "url => fetch(url).then(() => 'answered', error => error.message)", other.url
        )
        assert refused.startswith("Failed to fetch")
    other.shutdown()
    assert all("Content Security Policy" in text for text in opened.complaints)
    assert len(opened.complaints) >= 2
    opened.complaints.clear()
    opened.requests[:] = [url for url in opened.requests if url != other.url]


def test_a_page_that_may_have_threads_takes_them(browser: Browser, site: Path) -> None:
    isolated = {
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
    }
    server = Server(site, isolated)
    for opened in open_page(browser, f"{server.url}some/where/", viewport=WIDE):
        assert opened.page.evaluate("crossOriginIsolated")
        opened.page.mouse.click(*at(opened, 0.4, 0.6))
        expect(opened.page.locator("#status")).to_contain_text("Predicted IoU")
    server.shutdown()


def test_what_is_missing_is_said(browser: Browser, server: Server, tmp_path: Path) -> None:
    opened = Opened.blank(browser, viewport=WIDE)
    opened.page.route("**/encoder.onnx*", lambda route: route.fulfill(status=404))
    opened.page.goto(f"{server.url}some/where/")
    status = opened.page.locator("#status.wrong")
    expect(status).to_have_text("The server has no /some/where/model/encoder.onnx (404).")
    (tmp_path / "thesis.png").write_bytes(b"no image")
    opened.page.locator("#file").set_input_files(tmp_path / "thesis.png")
    expect(status).to_contain_text("thesis.png: this browser cannot read it as an image")
    opened.page.context.close()
