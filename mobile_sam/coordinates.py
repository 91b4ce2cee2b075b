"""The image frame and the model frame: pixels of the original image, and of the resized one.

SAM resizes an image until its longest side has S pixels, and pads it below and on the right.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mobile_sam.system.errors import UserError

# Of ImageNet, in 0..255; what lies in the model frame is less the mean and divided by the other.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class ThinImageError(UserError):
    """An image that has no row or no column in the model frame."""


def model_frame_size(image_size: tuple[int, int], img_size: int) -> tuple[int, int]:
    """(H, W) that an image of `image_size` (H, W) takes up in a model frame of side `img_size`.

    Raises ThinImageError for an image that is too thin to have a row or a column there.
    """
    scale = img_size / max(image_size)
    height, width = int(image_size[0] * scale + 0.5), int(image_size[1] * scale + 0.5)
    if not height or not width:
        raise ThinImageError(
            f"an image of {image_size[1]}x{image_size[0]} pixels is thinner than one pixel when "
            f"its longest side has {img_size}; cut it into pieces, or raise img_size"
        )
    return height, width


def points_to_model_frame(points: Tensor, image_size: tuple[int, int], img_size: int) -> Tensor:
    """Points (..., 2), xy in pixels, from the image frame to the model frame."""
    height, width = model_frame_size(image_size, img_size)
    return points * points.new_tensor([width / image_size[1], height / image_size[0]])


def upscale_logits(
    low_res_logits: Tensor,
    img_size: int,
    image_size: tuple[int, int],
    resized: tuple[int, int] | None = None,
) -> Tensor:
    """Mask logits in the image frame.

    low_res_logits: (P, M, S/4, S/4), model frame, before the threshold.
    img_size: S, the side of the model frame in pixels.
    image_size: (H, W) of the original image in pixels.
    resized: (H, W) that it takes up in the model frame; None: as `model_frame_size` says.
    Returns (P, M, H, W).
    """
    height, width = resized or model_frame_size(image_size, img_size)
    logits = F.interpolate(low_res_logits, (img_size, img_size), mode="bilinear")
    logits = logits[..., :height, :width]  # what lies outside is padding
    return F.interpolate(logits, image_size, mode="bilinear")


class LogitsWindow(NamedTuple):
    """Mask logits in a window of an image. logits: (h, w). x0, y0: its first column and row."""

    logits: Tensor
    x0: int
    y0: int


# PyTorch interpolates in another way if rows and columns of the output are 128 or fewer together.
_MIN_SIDE, _MIN_CELLS = 129, 17


def upscale_windows(
    low_res_logits: Tensor, threshold: float, img_size: int, image_size: tuple[int, int]
) -> Iterator[LogitsWindow]:
    """Yield mask logits in the image frame, of each mask in a window with all above a threshold.

    low_res_logits: (N, S/4, S/4). The logits are those of `upscale_logits`, bit for bit.
    """
    # Interpolated logits lie between those around them, up to rounding.
    limits = threshold - 1e-5 * low_res_logits.abs().amax((1, 2), keepdim=True)
    above = ~(low_res_logits <= limits)
    by_row, by_column = (above.any(axis).cpu().numpy() for axis in (2, 1))
    height, width = model_frame_size(image_size, img_size)
    whole = min(img_size, *image_size) < _MIN_SIDE
    for number, low_res in enumerate(low_res_logits[:, None, None]):
        # Other cells lie in the padding, and no pixel depends on them.
        rows = np.flatnonzero(by_row[number, : (height + 5) // 4])
        columns = np.flatnonzero(by_column[number, : (width + 5) // 4])
        if not len(rows) or not len(columns):
            yield LogitsWindow(low_res.new_empty(0, 0), 0, 0)
        elif whole:
            yield LogitsWindow(upscale_logits(low_res, img_size, image_size)[0, 0], 0, 0)
        else:
            down = _Span.reached(rows, img_size, height, image_size[0])
            across = _Span.reached(columns, img_size, width, image_size[1])
            logits = _upscale_spans(low_res, down, across)[0, 0]
            yield LogitsWindow(logits, across.start, down.start)


class _Span(NamedTuple):
    """Pixels along one axis, and what they are interpolated from.

    start, end: pixels of the image, which has `length`. frame_start, frame_end: pixels of the
    resized image in the model frame, which has `frame_length`. cells: of low_res_logits.
    """

    start: int
    end: int
    length: int
    frame_start: int
    frame_end: int
    frame_length: int
    cells: slice

    @classmethod
    def reached(
        cls, used: NDArray[np.intp], img_size: int, frame_length: int, length: int
    ) -> "_Span":
        """Return the pixels that depend on used cells, and perhaps a few more at each end."""
        scale = frame_length / length
        first, last = 4 * int(used[0]) - 2, min(4 * int(used[-1]) + 5, frame_length - 1)
        start = max(math.floor((first - 0.5) / scale - 0.5), 0)
        end = min(math.ceil((last + 1.5) / scale + 0.5), length)
        frame_start = max(math.floor(scale * (start + 0.5) - 0.5) - 1, 0)
        frame_end = min(math.floor(scale * (end - 0.5) - 0.5) + 3, frame_length)
        before = max(frame_start // 4 - 1, 0)
        after = min(max(frame_end // 4 + 2, before + _MIN_CELLS), img_size // 4)
        cells = slice(min(before, after - _MIN_CELLS), after)
        return cls(start, end, length, frame_start, frame_end, frame_length, cells)

    def stretch(self, frame: Tensor, axis: int) -> Tensor:
        """Upscale the resized image's pixels to the image's pixels along an axis."""
        shape = list(frame.shape)
        if self.frame_length == self.length:
            return frame.narrow(axis, self.start - self.frame_start, self.end - self.start)
        # With the whole length, the positions of pixels are rounded as in `upscale_logits`.
        shape[axis] = self.frame_length
        whole = frame.new_zeros(shape)
        whole.narrow(axis, self.frame_start, frame.shape[axis]).copy_(frame)
        shape[axis] = self.length
        stretched = F.interpolate(whole, shape[2:], mode="bilinear")
        return stretched.narrow(axis, self.start, self.end - self.start)


def _upscale_spans(low_res_logits: Tensor, down: _Span, across: _Span) -> Tensor:
    """Upscale a mask (1, 1, S/4, S/4) to the pixels (1, 1, h, w) of two spans."""
    block = low_res_logits[..., down.cells, across.cells]
    sides = [4 * side for side in block.shape[2:]]
    frame = F.interpolate(block, sides, mode="bilinear")
    for axis, span in ((2, down), (3, across)):
        start = span.frame_start - 4 * span.cells.start
        frame = frame.narrow(axis, start, span.frame_end - span.frame_start)
    return down.stretch(across.stretch(frame, 3), 2)  # in this order, as in PyTorch
