"""Python on the pages runs as it stands there, from the top of a page to its end."""

import re
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from mobile_sam.__main__ import main
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original
from tests.helpers.commands import ROOT
from tests.helpers.documented_commands import PAGES
from tests.helpers.finished_runs import RUN, copy_run

# Pages with code that no test runs as it stands there, in indented lines, and why.
NOT_RUN = {
    "docs/export.md": "OpenVINO at MobileSAM's own size, and CoreML, which runs on Apple's systems",
    "docs/weights.md": "the original package, in `tests/oracle`",
}
LONG = ("docs/export.md", "docs/report.md")


def blocks(page: str) -> list[str]:
    """The Python code of a page, each piece on the lines that it has there."""
    text = (ROOT / page).read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text[: match.start(1)].count("\n") + match[1] for match in found]


WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.fixture(scope="module")
def names(workplace: Path) -> dict[str, Any]:
    """What pages take for granted: an image, a box, MobileSAM's weights, the runs `a` and `b`."""
    Path("weights").mkdir()
    torch.save(to_original(build_sam_model("vit_t", 64)), "weights/mobile_sam.pt")
    for name in ("a", "b"):
        copy_run(name)
    image = cv2.cvtColor(cv2.imread("image.png"), cv2.COLOR_BGR2RGB)
    return {"image": image, "box": [10, 10, 70, 60]}


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.long] if p in LONG else []) for p in WITH_CODE],
)
def test_the_code_of_a_page_runs(page: str, names: dict[str, Any]) -> None:
    if page == "docs/export.md":
        assert (
            main(["export", "--config", str(RUN / "run.json"), "--onnx", "bundle", "--int8"]) == 0
        )
    known = dict(names)
    for code in blocks(page):
        exec(compile(code, page, "exec"), known)  # noqa: S102 - the point of the test


def test_no_code_is_left_out() -> None:
    assert sum(len(blocks(page)) for page in WITH_CODE) >= 14
    indented = re.compile(r"^ {4,}(?:from [\w.]+ )?import \w+", re.MULTILINE)
    assert {page for page in PAGES if indented.search((ROOT / page).read_text())} == set(NOT_RUN)
