"""Corrective clicks: after each round, one point where the prediction is most wrong.

Wrong against the truth, or against a teacher: then the clicks go where the student has most to
learn from it, as in EdgeSAM (Zhou et al., arXiv:2312.06660) and TinySAM (Shu et al.,
arXiv:2312.13789). The interactive training of SAM (Kirillov et al., arXiv:2304.02643, appendix A),
with two choices: the point is drawn from the largest connected error region, not from all errors,
because a person corrects the largest mistake first and scattered pixels along edges say little; and
within that region every pixel is equally likely, as in SAM, because people do not hit centres.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.data.masks import Mask, bounding_box
from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.models.prompt_encoder import BACKGROUND, FOREGROUND


@torch.no_grad()
def with_clicks(
    batch: Sample, low_res_logits: Tensor, predicted: Tensor, target: Tensor, number: int
) -> Sample:
    """Return the batch with one more point per prompt, and the prediction as its mask prompt.

    low_res_logits: (B, P, 1, S/4, S/4); predicted: (B, P, S, S) bool, its mask.
    target: (B, P, S, S) bool, what the mask should be: the truth, or what a teacher predicts.
    number: of the round that ended, from 0. A click is a function of the sample's seed, the
    prompt's place in the sample, and the round. Padding counts neither as right nor as wrong.
    """
    shape = target.shape[:2]
    valid = batch.valid[:, None].expand_as(target)
    found = drawn_clicks(
        *(target & valid, target & ~predicted & valid, predicted & ~target & valid),
        *(valid, batch.seed, number),
    )
    return batch._replace(
        points=torch.cat([batch.points, found[..., :2].to(batch.points.dtype)], dim=2),
        labels=torch.cat([batch.labels, found[..., 2]], dim=2),
        mask_prompts=low_res_logits.detach(),
        has_mask=torch.ones(shape, dtype=torch.bool, device=batch.points.device),
    )


@torch.library.custom_op("mobile_sam::drawn_clicks", mutates_args=())
def drawn_clicks(
    target: Tensor, missed: Tensor, extra: Tensor, valid: Tensor, seeds: Tensor, number: int
) -> Tensor:
    """Return the `click` of each prompt (B, P, 1, 3), for masks (B, P, S, S) and seeds (B,).

    It is an operation of PyTorch, because fake tensors have no pixels that OpenCV could look at.
    """
    missed_of, extra_of, target_of, valid_of = (
        mask.cpu().numpy() for mask in (missed, extra, target, valid)
    )
    of_images = seeds.tolist()

    def of(place: tuple[int, int]) -> tuple[int, int, int]:
        rng = np.random.default_rng([of_images[place[0]], place[1], number])
        return click(missed_of[place], extra_of[place], target_of[place], valid_of[place], rng)

    shape = target.shape[:2]
    with ThreadPoolExecutor() as pool:  # OpenCV lets go of the interpreter's lock
        clicks = np.array(list(pool.map(of, np.ndindex(*shape))))
    return torch.from_numpy(clicks.reshape(*shape, 1, 3)).to(target.device)


@drawn_clicks.register_fake
def _(
    target: Tensor, missed: Tensor, extra: Tensor, valid: Tensor, seeds: Tensor, number: int
) -> Tensor:
    return target.new_empty((*target.shape[:2], 1, 3), dtype=torch.long)


def click(
    missed: Mask, extra: Mask, target: Mask, valid: Mask, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Return (x, y, label) of a random pixel of the largest error region.

    missed: (S, S), target that was not predicted, a foreground point. extra: (S, S), predicted
    where there is no target, a background point. Of two equally large ones the missed is taken;
    without any error a pixel of the target; and where that is empty, as a teacher's may be, a
    background point on any valid pixel.
    """
    under, over = largest_region(missed), largest_region(extra)
    pixels, label = (over, BACKGROUND) if len(over) > len(under) else (under, FOREGROUND)
    if len(pixels) == 0:
        pixels, label = _pixels(target), FOREGROUND
    if len(pixels) == 0:
        pixels, label = _pixels(valid), BACKGROUND
    x, y = pixels[rng.integers(len(pixels))]
    return int(x), int(y), label


def largest_region(mask: Mask) -> NDArray[np.int_]:
    """Return the pixels (N, 2), xy, of the largest 8-connected region; (0, 2) for an empty mask."""
    if not mask.any():
        return np.zeros((0, 2), dtype=int)
    x0, y0, x1, y1 = bounding_box(mask)
    _, regions, stats, _ = cv2.connectedComponentsWithStats(
        mask[y0:y1, x0:x1].astype(np.uint8), connectivity=8
    )
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return _pixels(regions == largest) + np.array([x0, y0])


def _pixels(mask: Mask) -> NDArray[np.int_]:
    y, x = np.unravel_index(np.flatnonzero(mask), mask.shape)
    return np.stack([x, y], axis=1)
