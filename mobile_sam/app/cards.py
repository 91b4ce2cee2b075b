"""Cards side by side, one for each model: its masks over the picture, and its numbers, as HTML."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.data.masks import Mask, Size
from mobile_sam.data.overlays import blended, coloured, outlined, photo_uri
from mobile_sam.inference.drawing import write_label_map, write_mask

# Pixels of the longest side of what is shown: small images are enlarged, lest outlines be thick.
_SIDE, _LEAST_SIDE = 768, 512
_DIMMED = 0.5  # of the light beside a mask


@dataclass(frozen=True)
class Download:
    """A file in the page itself. uri: a data URI."""

    words: str
    file_name: str
    uri: str


@dataclass(frozen=True)
class Card:
    """What is shown of one model, or of the ground truth.

    about: a few words on the model. image: a data URI. facts: numbers after their names.
    note: a sentence. kind: `answer`, `truth`, `waiting` or `error`.
    """

    title: str
    image: str
    facts: tuple[tuple[str, str], ...] = ()
    about: str = ""
    note: str = ""
    download: Download | None = None
    kind: str = "answer"


class Shown:
    """A picture in the size of the page, under masks."""

    def __init__(self, pixels: NDArray[np.uint8], side: int = _SIDE) -> None:
        """pixels: (H, W, 3). side: pixels of the longest side, at most."""
        longest = max(pixels.shape[:2])
        scale = side / longest if longest > side else max(1, min(_LEAST_SIDE, side) // longest)
        height, width = (max(1, round(scale * length)) for length in pixels.shape[:2])
        self.size: Size = (height, width)
        image = Image.fromarray(pixels)
        if scale != 1:
            image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        self.pixels = np.asarray(image)

    def plain(self) -> str:
        """The picture as a data URI."""
        return photo_uri(self.pixels)

    def under(self, masks: Sequence[Mask]) -> str:
        """The picture under masks (H, W) of its own size, each in a colour, as a data URI."""
        return photo_uri(blended(self.pixels, self._coloured(masks)))

    def lit(self, mask: Mask, truth: Mask | None = None) -> str:
        """As `under` one mask, and dark where it is not. truth: outlined."""
        dimmed = (self.pixels * _DIMMED).astype(np.uint8)
        pixels = np.where(self._small(mask)[..., None], self.pixels, dimmed)
        layers = [self._coloured([mask])]
        if truth is not None:
            layers.append(outlined([self._small(truth)], self.size))
        return photo_uri(blended(pixels, *layers))

    def _coloured(self, masks: Sequence[Mask]) -> NDArray[np.uint8]:
        return coloured([self._small(mask) for mask in masks], self.size)

    def _small(self, mask: Mask) -> Mask:
        if mask.shape == self.size:
            return mask
        shown = Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST)
        return np.asarray(shown)


def html(cards: Sequence[Card]) -> str:
    """The cards as a list."""
    return _TEMPLATE.render(cards=cards)


def mask_file(mask: Mask, file_name: str) -> Download:
    """A mask (H, W) as a PNG of the same size, of 255 on the thing and 0 elsewhere."""
    buffer = io.BytesIO()
    write_mask(buffer, mask)
    return Download("Download mask", file_name, _uri(buffer))


def label_file(masks: Sequence[Mask], size: Size, file_name: str) -> Download:
    """Masks (H, W) as a label map, see `write_label_map`."""
    buffer = io.BytesIO()
    write_label_map(buffer, masks, size)
    return Download("Download label map", file_name, _uri(buffer))


def milliseconds(value: float) -> str:
    """A time in few digits, with its unit."""
    return f"{value / 1e3:.1f} s" if value >= 10_000 else f"{value:.{0 if value >= 10 else 1}f} ms"


def _uri(png: io.BytesIO) -> str:
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


_TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    resources.files("mobile_sam.app").joinpath("cards.html").read_text()
)
