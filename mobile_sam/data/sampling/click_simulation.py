"""Simulated corrective clicks: the deepest pixel of the errors of a prediction.

The method is that of RITM (Sofiiuk et al., arXiv:2102.06583). Clicks depend on the masks alone.
"""

from collections.abc import Sequence

import numpy as np

from mobile_sam.data.masks import Mask, deepest_pixel
from mobile_sam.data.sampling.prompts import Prompt, points_prompt
from mobile_sam.metrics.mask_crop import MaskCrop, crop_pair, without

Click = tuple[int, int, bool]  # x, y in pixels, and whether the click is on the segment


def next_click(
    prediction: Mask | MaskCrop, truth: Mask | MaskCrop, clicks: Sequence[Click]
) -> Click:
    """Return a click on the deepest pixel of an error that has no click yet.

    prediction, truth: (H, W). As in RITM, a click does not change the depth of the pixels around
    it, and a false positive is clicked if a false negative is equally deep. If all errors are
    clicked, which RITM does not handle, the first click is returned again.
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
    """Return one prompt with all clicks: len(clicks) + 1 points."""
    points = np.array([(x, y) for x, y, _ in clicks])
    foreground = np.array([on_segment for _, _, on_segment in clicks])
    return points_prompt(points[foreground], points[~foreground])
