"""Screenshots of the report, the app and the web page of a finished demo, and masks by stage.

    make demo && python docs/building/pictures.py docs/images

Needs Chromium, and the packages of `pip install -e '.[dev]'`.
"""

import argparse
import functools
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from mobile_sam.config.load import load_settings
from mobile_sam.report.inputs.from_run import read_run
from mobile_sam.report.sections.gallery import SelectedImage, load_images, write_sheet
from mobile_sam.report.tables import by_image

RUN = Path("results/mobile_sam/distill_then_finetune-demo")
CHROMIUM = "/usr/bin/chromium"
PERCENTILES = (95, 70, 50)  # of the mean IoU of an image; a row of masks.png for each
HEADINGS = {
    "start": "before training",
    "00_distill": "after distillation",
    "01_finetune": "after fine-tuning",
}


def main() -> None:
    """Write masks.png, report.png, app.png and web.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--browser", default=CHROMIUM)
    args = parser.parse_args()
    masks(args.directory / "masks.png")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=args.browser, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, picture in (("report", report), ("app", app), ("web", web_page)):
            target = args.directory / f"{name}.png"
            picture(browser, target)
            reduce_colours(target)
        browser.close()


def reduce_colours(target: Path) -> None:
    """Store a picture with 256 colours, in place; pure white stays, and gradients are dithered."""
    picture = Image.open(target).convert("RGB")
    palette = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(
        target, optimize=True
    )
    print(target)


def masks(target: Path) -> None:
    """Save validation images with the masks of each checkpoint, a row for each percentile."""
    run = read_run(load_settings(RUN / "run.json"))
    means = by_image(run.objects, run.first_prompt)[run.main]
    images = [(means - means.quantile(p / 100)).abs().idxmin() for p in PERCENTILES]
    rows = [SelectedImage(str(image), "", run.main) for image in images]
    shots = [
        replace(
            shot, layers=tuple(replace(x, name=HEADINGS.get(x.name, x.name)) for x in shot.layers)
        )
        for shot in load_images(run, {"rows": rows})["rows"]
    ]
    write_sheet(shots, target, "masks by stage")
    reduce_colours(target)


def report(browser: Browser, target: Path) -> None:
    """Save the top of the report: the verdict, the table of results, and the first images."""
    page = browser.new_page(viewport={"width": 1080, "height": 1860})
    page.goto((RUN / "report" / "index.html").resolve().as_uri())
    hidden = "#differences, #results > :nth-child(n + 4)"
    page.add_style_tag(content=hidden + "{display: none}")
    page.screenshot(path=target)
    page.close()


def app(browser: Browser, target: Path) -> None:
    """Save the page of `app` with the box of an object of the ground truth as prompt."""
    command = [sys.executable, "-m", "mobile_sam", "app", "--run", str(RUN)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101 - for mypy; it is a pipe
        page = browser.new_page(viewport={"width": 1340, "height": 900})
        page.goto(process.stdout.readline().split()[0])
        expect(page.locator(".card.answer").first).to_be_visible()
        page.locator(".frame").get_by_text("4", exact=True).click()
        expect(page.locator(".download").first).to_be_visible()
        page.wait_for_timeout(1000)
        page.screenshot(path=target, full_page=True)
        page.close()
    finally:
        process.terminate()
        process.wait()


def web_page(browser: Browser, target: Path) -> None:
    """Save the page of `export --web` with a point on an object of its first image."""
    with tempfile.TemporaryDirectory() as directory:
        site = Path(directory) / "site"
        command = [sys.executable, "-m", "mobile_sam", "export", "--config", str(RUN / "run.json")]
        subprocess.run([*command, "--web", str(site)], check=True)
        with served(site) as address:
            page = browser.new_page(viewport={"width": 1160, "height": 1025})
            page.goto(address)
            expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")
            box = page.locator("#stage").bounding_box() or {}
            page.mouse.click(box["x"] + 0.72 * box["width"], box["y"] + 0.62 * box["height"])
            expect(page.locator("#download")).to_be_enabled()
            page.wait_for_timeout(1000)
            page.screenshot(path=target)
            page.close()


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory on loopback; give its address."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(directory))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
