"""Simulated corrective clicks, as interactive segmentation is measured.

Each click goes where a careful person would put it: to the pixel that lies deepest in the largest
error, as in RITM (Sofiiuk et al., arXiv:2102.06583). As SAM is used (Kirillov et al.,
arXiv:2304.02643), the first click takes the mask of the three that the model trusts most, and each
later one gives the answer before it as a mask prompt.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.data.masks import Mask, interior_point, squared_depth
from mobile_sam.data.prompts import Prompt, points_prompt
from mobile_sam.evaluation.encoded import Answer, EncodedImage
from mobile_sam.metrics import iou
from mobile_sam.options import Protocol

MOST_CLICKS = 20
GOAL = 0.9  # IoU at which a session ends
SHOWN = (3, 5)  # numbers of clicks that have a row of their own
_Click = tuple[int, int, bool]  # x, y, and whether it is on the segment


def answers_by_clicks(
    image: EncodedImage,
    truths: Sequence[Mask],
    first: tuple[Tensor, Tensor],
    threshold: float,
    protocols: Sequence[Protocol],
) -> Iterator[Answer]:
    """What the model says of P segments after some clicks on each.

    truths: masks (H, W). first: low_res_logits (P, 1, S/4, S/4) and predicted_iou (P,) of a click
    on the deepest pixel of each. Segments that have reached the goal get no click that is only
    counted.
    """
    counted, shown = "noc" in protocols, SHOWN if "clicks" in protocols else ()
    session = _Session(image, truths, first, threshold)
    for count in range(1, (MOST_CLICKS if counted else max(SHOWN)) + 1):
        if count > 1:
            session.click(everywhere=count <= max(shown, default=0))
        if count in shown:
            yield Answer(f"clicks_{count}", *session.state())
        if count >= max(shown, default=0) and session.reached():
            break
    if counted:
        yield Answer("noc", *session.state(), ious=tuple(map(tuple, session.ious)))


class _Session:
    """Clicks on each of P segments, the masks they led to, and IoU after each click."""

    def __init__(
        self,
        image: EncodedImage,
        truths: Sequence[Mask],
        first: tuple[Tensor, Tensor],
        threshold: float,
    ) -> None:
        self.image, self.truths, self.threshold = image, truths, threshold
        self.low_res_logits, self.predicted_iou = (tensor.clone() for tensor in first)
        self.masks = self._masks(self.low_res_logits)
        self.clicks: list[list[_Click]] = [[(*interior_point(mask), True)] for mask in truths]
        self.ious = [[iou(*pair)] for pair in zip(self.masks, truths, strict=True)]

    def state(self) -> tuple[Tensor, Tensor]:
        """Masks (P, H, W) and predicted_iou (P,) as they are now."""
        return torch.from_numpy(self.masks.copy()), self.predicted_iou.clone()

    def reached(self) -> bool:
        """Whether every segment has reached the goal."""
        return not self._unfinished()

    def click(self, everywhere: bool) -> None:
        """One more click on each segment, or on those that have not reached the goal."""
        active = list(range(len(self.truths))) if everywhere else self._unfinished()
        for number in active:
            self.clicks[number].append(
                next_click(self.masks[number], self.truths[number], self.clicks[number])
            )
        decoded = self.image.decode(
            [_prompt(self.clicks[number]) for number in active], self.low_res_logits[active]
        )
        self.low_res_logits[active] = decoded.low_res_logits
        self.predicted_iou[active] = decoded.predicted_iou[:, 0]
        self.masks[active] = self._masks(decoded.low_res_logits)
        for number in active:
            self.ious[number].append(iou(self.masks[number], self.truths[number]))

    def _masks(self, low_res_logits: Tensor) -> NDArray[np.bool_]:
        return (self.image.upscale(low_res_logits)[:, 0] > self.threshold).cpu().numpy()

    def _unfinished(self) -> list[int]:
        return [number for number, found in enumerate(self.ious) if max(found) < GOAL]


def next_click(prediction: Mask, truth: Mask, clicks: Sequence[_Click]) -> _Click:
    """(x, y, on the segment) of the deepest pixel of the largest error that has no click yet.

    prediction, truth: (H, W). The larger of two errors is the deeper one; of equal ones, what was
    missed. Without an error left to click on, the first click is made again.
    """
    missed, extra = truth & ~prediction, prediction & ~truth
    for column, row, _ in clicks:
        missed[row, column] = extra[row, column] = False
    depths = [squared_depth(error) for error in (missed, extra)]
    on_segment = bool(depths[0].max() >= depths[1].max())
    deepest = depths[0] if on_segment else depths[1]
    if deepest.max() == 0:
        return clicks[0]
    y, x = np.unravel_index(int(deepest.argmax()), truth.shape)
    return int(x), int(y), on_segment


def _prompt(clicks: Sequence[_Click]) -> Prompt:
    """All clicks as one prompt of len(clicks) + 1 points."""
    places = np.array([(x, y) for x, y, _ in clicks])
    on = np.array([on_segment for _, _, on_segment in clicks])
    return points_prompt(places[on], places[~on])
