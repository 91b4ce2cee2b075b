"""Code on the pages of `docs/` runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobile_sam.config import parse_config
from mobile_sam.data.synthetic import scene
from mobile_sam.layout import RunPaths
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original
from mobile_sam.plan import write_settings
from mobile_sam.runs import Runs
from tests.conftest import ROOT, tiny_settings


@pytest.fixture
def workplace(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a finished run `my_run` of 64 pixels, MobileSAM's weights and two images."""
    settings = tiny_settings(scenes, Path("results"), run_name="my_run")
    monkeypatch.chdir(tmp_path)
    config = parse_config(settings, "test")
    write_settings(Runs((config,), (config,)))
    torch.save(to_original(build_sam_model("tiny_sam", 64)), RunPaths(config).weights)
    Path("weights").mkdir()
    torch.save(to_original(build_sam_model("vit_t", 64)), "weights/mobile_sam.pt")
    for seed, name in enumerate(("image.png", "other.png")):
        pixels, _ = scene(120, np.random.default_rng(seed))
        Image.fromarray(pixels[: 90 + 10 * seed]).save(name)
    return tmp_path


def blocks(page: str) -> list[str]:
    """The Python code of a page, each piece on the lines that it has there."""
    text = (ROOT / "docs" / page).read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text[: match.start(1)].count("\n") + match[1] for match in found]


@pytest.mark.parametrize(("page", "pieces"), [("inference.md", 7), ("automatic.md", 3)])
def test_the_code_of_a_page_runs(page: str, pieces: int, workplace: Path) -> None:
    names: dict[str, Any] = {}
    found = blocks(page)
    assert len(found) == pieces
    for code in found:
        exec(compile(code, f"docs/{page}", "exec"), names)  # noqa: S102 - the point of the test
