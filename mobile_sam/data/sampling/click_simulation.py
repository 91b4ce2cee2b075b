"""Simulated corrective clicks: the pixel that lies deepest in an error.

As in RITM (Sofiiuk et al., arXiv:2102.06583). They are a function of the masks alone.
"""

from collections.abc import Sequence

import numpy as np

from mobile_sam.data.masks import Mask, deepest_pixel
from mobile_sam.data.sampling.prompts import Prompt, points_prompt
from mobile_sam.metrics.mask_crop import MaskCrop, crop_pair, without

Click = tuple[int, int, bool]  # x, y, and whether it is on the segment


def next_click(
    prediction: Mask | MaskCrop, truth: Mask | MaskCrop, clicks: Sequence[Click]
) -> Click:
    """(x, y, on the segment) of the deepest pixel of an error that has no click yet.

    prediction, truth: (H, W). As in RITM, clicks do not make what is around them less deep, and of
    equally deep errors what is too much is clicked. Without an error left to click on, which RITM
    does not foresee, the first click is made again.
    """
    prediction, truth = crop_pair(prediction, truth)
    clicked = [(x, y) for x, y, _ in clicks]
    missed, extra = (
        deepest_pixel(without(first, second), clicked)
        for first, second in ((truth, prediction), (prediction, truth))
    )
    depth, x, y = max(extra, missed, key=lambda deepest: deepest[0])
    return (x, y, missed[0] > extra[0]) if depth else clicks[0]


def clicks_prompt(clicks: Sequence[Click]) -> Prompt:
    """All clicks as one prompt of len(clicks) + 1 points."""
    places = np.array([(x, y) for x, y, _ in clicks])
    on = np.array([on_segment for _, _, on_segment in clicks])
    return points_prompt(places[on], places[~on])
