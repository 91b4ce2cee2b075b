"""Signs that a mask file is no longer what was drawn: smoothing, resizing, lossy compression.

All are measured on one channel (H, W) of whole numbers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Channel = NDArray[Any]
# Measured on discs and label maps that were resized and compressed, and on real label maps:
# smoothed ones have a share of 0.36 or more, real ones of 0.06 or less.
_SOFT_SHARE, _FEWEST_EDGES, _RAMP = 0.35, 24, 3
_NEAR = 16  # levels that JPEG moves a value by


def softness_reason(channel: Channel) -> str | None:
    """Say why a channel cannot be trusted to hold what was drawn; None where it can."""
    values = np.unique(channel)
    if len(values) <= 2:
        return None
    soft, edges = _count_ramps(channel)
    if edges >= _FEWEST_EDGES and soft > _SOFT_SHARE * edges:
        return f"its edges are smooth ({len(values)} values, of which many lie between others)"
    if values[0] >= 0 and values[-1] <= 255 and _is_like_jpeg(channel, values):
        return f"its values scatter as lossy compression leaves them ({len(values)} values)"
    return None


def _count_ramps(channel: Channel) -> tuple[int, int]:
    """Count short runs whose value lies between those of both neighbours, and all changes.

    Along rows and columns; a mask with hard edges steps over the values between.
    """
    soft = edges = 0
    for lines in (channel, channel.T):
        width = lines.shape[1]
        flat = np.ascontiguousarray(lines).ravel()
        begins = np.ones(flat.size, dtype=bool)
        begins[1:] = flat[1:] != flat[:-1]
        begins[::width] = True
        starts = np.flatnonzero(begins)
        value, line = flat[starts], starts // width
        length = np.diff(np.r_[starts, flat.size])
        same_line = line[1:] == line[:-1]
        edges += int(same_line.sum())
        before, here, after = value[:-2], value[1:-1], value[2:]
        between = ((before < here) & (here < after)) | ((before > here) & (here > after))
        within = same_line[1:] & same_line[:-1]
        soft += int((within & between & (length[1:-1] <= _RAMP)).sum())
    return soft, edges


def _is_like_jpeg(channel: Channel, values: Channel) -> bool:
    """Return whether values scatter: many isolated pixels, or values close to the brightest."""
    values = values.astype(np.int64)
    top = values[values >= values[-1] - _NEAR // 2]
    bottom = values[values <= _NEAR // 2]
    if values[-1] >= 128 and len(top) > 1 and len(top) + len(bottom) == len(values):
        return True
    if len(values) < 8:
        return False
    padded = np.pad(channel.astype(np.int64), 1, constant_values=-(10**6))
    centre = padded[1:-1, 1:-1]
    steps = np.stack(
        [
            np.abs(centre - other)
            for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        ]
    ).min(axis=0)
    single = (steps > 0) & (centre != 0)
    near = single & (steps <= _NEAR)
    return bool(single.sum() >= 2 * len(values) and 2 * near.sum() > single.sum())
