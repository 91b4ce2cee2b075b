"""Chromium for tests of pages, and pages that note what they complain about and ask for."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync"),
]


def started_browser() -> Iterator[Browser]:
    """Chromium, for a fixture; without one the test is skipped, as `skip_or_fail` says."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        skip_or_fail(f"there is no browser; install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


def skip_or_fail(sentence: str) -> None:
    """Skip the test, unless MOBILE_SAM_NEED_BROWSER=1 says that all it needs can be had."""
    if os.environ.get("MOBILE_SAM_NEED_BROWSER") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)


@dataclass
class Opened:
    """A page with all that it complained about, and all that it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @classmethod
    def blank(cls, browser: Browser, **context: Any) -> "Opened":
        """A page that is nowhere yet, in a context of its own."""
        one = cls(browser.new_context(**context).new_page())
        one.page.on("console", lambda message: one.complaints.append(message.text))
        one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
        one.page.context.on("request", lambda request: one.requests.append(request.url))
        return one
