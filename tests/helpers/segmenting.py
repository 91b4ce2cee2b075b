"""The verb `segment`, as the tests of both of its ways call it."""

import json
from pathlib import Path
from typing import Any

from mobile_sam.__main__ import main


def segment_photos(images: Path, weights: Path, *arguments: object) -> int:
    """The verb's status; its files are in `out` beside the directory of images."""
    out = images.parent / "out"
    given = ["segment", "--weights", weights, "--img-size", 64, "--images", images, "--out", out]
    return main([str(part) for part in (*given, *arguments)])


def coco_of(images: Path) -> dict[str, Any]:
    """The COCO file that the verb wrote."""
    return dict(json.loads((images.parent / "out" / "coco.json").read_text()))
