"""Simulated corrective clicks: the pixel that lies deepest in an error.

As in RITM (Sofiiuk et al., arXiv:2102.06583). They are a function of the masks alone.
"""

from collections.abc import Sequence

import numpy as np

from mobile_sam.data.masks import Mask, squared_depth
from mobile_sam.data.sampling.prompts import Prompt, points_prompt

Click = tuple[int, int, bool]  # x, y, and whether it is on the segment


def next_click(prediction: Mask, truth: Mask, clicks: Sequence[Click]) -> Click:
    """(x, y, on the segment) of the deepest pixel of an error that has no click yet.

    prediction, truth: (H, W). As in RITM, clicks do not make what is around them less deep, and of
    equally deep errors what is too much is clicked. Without an error left to click on, which RITM
    does not foresee, the first click is made again.
    """
    depths = [squared_depth(error) for error in (truth & ~prediction, prediction & ~truth)]
    for column, row, _ in clicks:
        depths[0][row, column] = depths[1][row, column] = 0
    on_segment = bool(depths[0].max() > depths[1].max())
    deepest = depths[0] if on_segment else depths[1]
    if deepest.max() == 0:
        return clicks[0]
    y, x = np.unravel_index(int(deepest.argmax()), truth.shape)
    return int(x), int(y), on_segment


def clicks_prompt(clicks: Sequence[Click]) -> Prompt:
    """All clicks as one prompt of len(clicks) + 1 points."""
    places = np.array([(x, y) for x, y, _ in clicks])
    on = np.array([on_segment for _, _, on_segment in clicks])
    return points_prompt(places[on], places[~on])
