"""Cards in HTML, one for each model: its masks over the image, and its numbers."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobile_sam.data.masks import EncodedMasks, Mask, Size, encode
from mobile_sam.data.overlays import blend_layers, colour_layer, outline_layer, photo_uri
from mobile_sam.inference.drawing import write_label_map, write_mask

# Pixels of the longest side on the page; small images are enlarged so that outlines stay thin.
_MAX_SIDE, _MIN_SIDE = 768, 512
_DIMMING = 0.5  # brightness outside a mask


@dataclass(frozen=True)
class Download:
    """File for download that is part of the page. label: of its link. uri: a data URI."""

    label: str
    file_name: str
    uri: str


@dataclass(frozen=True)
class Card:
    """Card of one model, or of the ground truth.

    image: a data URI. facts: pairs of a name and a value. about: a short description of the model.
    note: a sentence. kind: `answer`, `truth`, `waiting` or `error`.
    """

    title: str
    image: str
    facts: tuple[tuple[str, str], ...] = ()
    about: str = ""
    note: str = ""
    download: Download | None = None
    kind: str = "answer"


class RenderedImage:
    """Image in its size on the page, with masks drawn over it."""

    def __init__(self, pixels: NDArray[np.uint8], max_side: int = _MAX_SIDE) -> None:
        """Resize pixels (H, W, 3). max_side: largest length of the longest side in pixels."""
        longest = max(pixels.shape[:2])
        enlargement = max(1, min(_MIN_SIDE, max_side) // longest)
        scale = max_side / longest if longest > max_side else enlargement
        height, width = (max(1, round(scale * length)) for length in pixels.shape[:2])
        self.size: Size = (height, width)
        image = Image.fromarray(pixels)
        if scale != 1:
            image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        self.pixels = np.asarray(image)

    def uri(self) -> str:
        """Return the image without masks as a data URI."""
        return photo_uri(self.pixels)

    def with_masks(self, masks: Iterable[Mask]) -> str:
        """Return the image under masks (H, W) of the original size, in colours, as a data URI."""
        return photo_uri(blend_layers(self.pixels, self._coloured(masks)))

    def highlight(self, mask: Mask, truth: Mask | None = None) -> str:
        """Return the image under one mask and dimmed outside it, as a data URI.

        truth: the ground truth, which is drawn as an outline.
        """
        dimmed = (self.pixels * _DIMMING).astype(np.uint8)
        pixels = np.where(self._resize(mask)[..., None], self.pixels, dimmed)
        layers = [self._coloured([mask])]
        if truth is not None:
            layers.append(outline_layer([self._resize(truth)], self.size))
        return photo_uri(blend_layers(pixels, *layers))

    def _coloured(self, masks: Iterable[Mask]) -> NDArray[np.uint8]:
        return colour_layer(EncodedMasks((encode(self._resize(mask)) for mask in masks), self.size))

    def _resize(self, mask: Mask) -> Mask:
        if mask.shape == self.size:
            return mask
        resized = Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST)
        return np.asarray(resized)


def html(cards: Sequence[Card]) -> str:
    """Render cards as a list."""
    return _TEMPLATE.render(cards=cards)


def mask_file(mask: Mask, file_name: str) -> Download:
    """Return a mask (H, W) as a PNG of the same size: 255 for foreground, 0 for background."""
    buffer = io.BytesIO()
    write_mask(buffer, mask)
    return Download("Download mask", file_name, _uri(buffer))


def label_file(masks: EncodedMasks, file_name: str) -> Download:
    """Return masks (H, W) as a label map, see `write_label_map`."""
    buffer = io.BytesIO()
    write_label_map(buffer, masks)
    return Download("Download label map", file_name, _uri(buffer))


def milliseconds(value: float) -> str:
    """Format a time with few digits and its unit."""

    return f"{value / 1e3:.1f} s" if value >= 10_000 else f"{value:.{0 if value >= 10 else 1}f} ms"


def _uri(png: io.BytesIO) -> str:
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


_TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    resources.files("mobile_sam.app").joinpath("cards.html").read_text(encoding="utf-8")
)
