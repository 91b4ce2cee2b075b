"""Corrective clicks: after each round, one point in the largest error of each prediction.

Errors are differences from the truth, or from a teacher's mask, as in EdgeSAM (Zhou et al.,
arXiv:2312.06660) and TinySAM (Shu et al., arXiv:2312.13789). This is the interactive training of
SAM (Kirillov et al., arXiv:2304.02643, appendix A) with one difference: the point is drawn from the
largest connected error region instead of from all errors, because people correct the largest
mistake first, and scattered pixels along edges carry little information. As in SAM, every pixel of
the region is equally likely, because people do not hit centres.
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
    target: (B, P, S, S) bool, the mask to reach: the truth, or a teacher's prediction.
    number: number of the finished round, from 0. A click is a function of the sample's seed, the
    prompt's place in the sample, and the round. Padding is never an error.
    """
    shape = target.shape[:2]
    valid = batch.valid[:, None].expand_as(target)
    clicks = drawn_clicks(
        *(target & valid, target & ~predicted & valid, predicted & ~target & valid),
        *(valid, batch.seed, number),
    )
    return batch._replace(
        points=torch.cat([batch.points, clicks[..., :2].to(batch.points.dtype)], dim=2),
        labels=torch.cat([batch.labels, clicks[..., 2]], dim=2),
        mask_prompts=low_res_logits.detach(),
        has_mask=torch.ones(shape, dtype=torch.bool, device=batch.points.device),
    )


@torch.library.custom_op("mobile_sam::drawn_clicks", mutates_args=())
def drawn_clicks(
    target: Tensor, missed: Tensor, extra: Tensor, valid: Tensor, seeds: Tensor, number: int
) -> Tensor:
    """Return the `click` of each prompt (B, P, 1, 3), for masks (B, P, S, S) and seeds (B,).

    A custom operator of PyTorch, because OpenCV cannot read fake tensors, which have no pixels.
    """
    masks = [mask.cpu().numpy() for mask in (missed, extra, target, valid)]
    image_seeds = seeds.tolist()

    def draw(place: tuple[int, int]) -> tuple[int, int, int]:
        rng = np.random.default_rng([image_seeds[place[0]], place[1], number])
        missed_pixels, extra_pixels, target_pixels, valid_pixels = (mask[place] for mask in masks)
        return click(missed_pixels, extra_pixels, target_pixels, valid_pixels, rng)

    shape = target.shape[:2]
    with ThreadPoolExecutor() as pool:  # OpenCV releases the GIL
        clicks = np.array(list(pool.map(draw, np.ndindex(*shape))))
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

    missed: (S, S), pixels of the target that were not predicted; a click there is foreground.
    extra: (S, S), predicted pixels outside the target; a click there is background. If both regions
    are equally large, the missed one is used. Without any error, the click is a foreground point on
    the target; if a teacher's target is empty, it is a background point on any valid pixel.
    """
    pixels, label = largest_region(missed), FOREGROUND
    extra_pixels = largest_region(extra)
    if len(extra_pixels) > len(pixels):
        pixels, label = extra_pixels, BACKGROUND
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
