"""Detection of masks that were smoothed, resized or compressed with loss.

All measures apply to one channel (H, W) of integers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Channel = NDArray[Any]
# Share of soft edges: 0.36 or more in resized and compressed discs and label maps, 0.06 or less in
# real label maps, as measured.
_SOFT_SHARE = 0.35
_MIN_EDGES = 24
_MAX_RAMP = 3  # pixels of a soft edge
_NEAR = 16  # levels by which JPEG changes a value


def softness_reason(channel: Channel) -> str | None:
    """Return the reason why the values of a channel are not labels; None if they may be."""
    values = np.unique(channel)
    if len(values) <= 2:
        return None
    soft, edges = _count_ramps(channel)
    if edges >= _MIN_EDGES and soft > _SOFT_SHARE * edges:
        return f"its edges are smooth ({len(values)} values, many of them between two others)"
    if values[0] >= 0 and values[-1] <= 255 and _is_like_jpeg(channel, values):
        return f"its values scatter as after lossy compression ({len(values)} values)"
    return None


def _count_ramps(channel: Channel) -> tuple[int, int]:
    """Count short runs whose value lies between those of both neighbours, and all changes.

    Runs follow rows and columns. In a mask with hard edges, few values lie between others.
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
        soft += int((within & between & (length[1:-1] <= _MAX_RAMP)).sum())
    return soft, edges


def _is_like_jpeg(channel: Channel, values: Channel) -> bool:
    """Return whether values scatter: many isolated pixels, or values close to the extremes."""
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
