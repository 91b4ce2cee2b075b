"""Images to read and images that were written."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from mobile_sam.data.synthetic import scene


def draw_image(path: Path, width: int, height: int, seed: int) -> Path:
    """Write the upper part of a drawn scene as an image; returns its path."""
    pixels, _ = scene(width, np.random.default_rng(seed))
    Image.fromarray(pixels[:height]).save(path)
    return path


def pixels_of(uri: str) -> np.ndarray:
    kind, content = uri.split(",", 1)
    assert kind in {"data:image/png;base64", "data:image/jpeg;base64"}
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
