"""Screenshots of the report, the app and the web page of a finished demo, for the documentation.

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
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

RUN = Path("results/mobile_sam/distill_then_finetune-demo")
CHROMIUM = "/usr/bin/chromium"


def main() -> None:
    """Write report.png, app.png and web.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--browser", default=CHROMIUM)
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=args.browser, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, picture in (("report", report), ("app", app), ("web", web_page)):
            target = args.directory / f"{name}.png"
            picture(browser, target)
            Image.open(target).convert("RGB").quantize(256).save(target, optimize=True)
            print(target)
        browser.close()


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
