"""Points at which mask losses are computed instead of on whole masks: random and uncertain pixels.

As in PointRend (Kirillov et al., arXiv:1912.08193, section 3.1) and Mask2Former (Cheng et al.,
arXiv:2112.01527, section 3.3), K points of a mask are three quarters the most uncertain of 3 K
random candidates, and one quarter random. Unlike there, points are pixel centres of the model
frame, so that the truth is known exactly, and every second random pixel lies near the object,
because an object of 6 pixels in an image of 1024 would get one of 37,632 uniform candidates.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mobile_sam.config.losses import LOSSES
from mobile_sam.data.masks import Mask, bounding_box
from mobile_sam.training.losses import FUNCTIONS, IN_REGIONS, full_precision

_MARGIN = 1 / 64  # smallest distance of the region near an object from its box, of the frame's side
_REGIONS_AT_ONCE = 4  # masks whose region is found at a time


@torch.library.custom_op("mobile_sam::random_pixels", mutates_args=())
def random_pixels(
    masks: Tensor, size: Tensor, seeds: Tensor, first: int, number: int, points: int
) -> Tensor:
    """Draw the pixels of which K `points` are selected, (B, P, 13 K / 4) int64: y * S + x.

    Pixels of even number are uniform in the image; those of odd number are uniform in the box of
    the object, enlarged by half a side, and at least by S / 64, in each direction. A pixel can be
    drawn several times. Pixels are a function of the sample's seed, the prompt's place in the
    sample, and the round.

    masks: (B, P, S, S) bool. size: (B, 2), H and W of the images in the model frame. seeds: (B,).
    first: place of the first prompt in its sample. number: number of the round, from 0.
    points: a multiple of 8. A custom operator of PyTorch for the same reason as `drawn_clicks`.
    """
    truth, sizes, image_seeds = masks.cpu().numpy(), size.tolist(), seeds.tolist()
    drawn = [
        pixels_to_choose_from(
            truth[image, place],
            sizes[image],
            13 * points // 4,
            np.random.default_rng([image_seeds[image], first + place, number, 1]),
        )
        for image, place in np.ndindex(*truth.shape[:2])
    ]
    return torch.from_numpy(np.stack(drawn)).view(*masks.shape[:2], -1).to(masks.device)


@random_pixels.register_fake
def _(masks: Tensor, size: Tensor, seeds: Tensor, first: int, number: int, points: int) -> Tensor:
    return masks.new_empty((*masks.shape[:2], 13 * points // 4), dtype=torch.long)


def pixels_to_choose_from(
    mask: Mask, size: tuple[int, int], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw pixels of one mask (S, S), as `random_pixels` does, (count,); count: even.

    size: H and W of the image. For an empty mask, the whole image counts as its box.
    """
    height, width = size
    x0, y0, x1, y1 = bounding_box(mask) if mask.any() else (0, 0, width, height)
    least = round(len(mask) * _MARGIN)
    across, down = max((x1 - x0) // 2, least), max((y1 - y0) // 2, least)
    shape = count // 2, 2
    y = rng.integers([0, max(y0 - down, 0)], [height, min(y1 + down, height)], shape)
    x = rng.integers([0, max(x0 - across, 0)], [width, min(x1 + across, width)], shape)
    return (y * len(mask) + x).ravel()


def losses_at_points(
    low_res_logits: Tensor,
    truth: Tensor,
    valid: Tensor,
    weights: Mapping[str, float],
    pixels: Tensor,
) -> dict[str, Tensor]:
    """Return losses (N,) of kind `mask` at points of masks low_res_logits (N, S/4, S/4).

    Each is that of a mask of these points alone. Uncertain pixels and those near the object have
    more weight than others, so that losses are larger than on whole masks. A loss of weight 0 has
    no gradient.

    truth, valid: (N, S, S) bool. pixels: (N, 13 K / 4), as in `random_pixels`.
    """
    points = select_points(low_res_logits, valid, pixels)
    logits = logits_at_pixels(low_res_logits, points, truth.shape[1])[:, None]  # (N, 1, K)
    target, counted = (at_points(x, points)[:, None].to(logits.dtype) for x in (truth, valid))
    losses = {}
    for name, weight in weights.items():
        if LOSSES[name] == "mask":
            of_points, region = FUNCTIONS[name], counted
            if name in IN_REGIONS:
                find, of_points = IN_REGIONS[name]
                region = counted * _region_at(points, truth, find, logits.dtype)[:, None]
            with torch.set_grad_enabled(weight > 0 and torch.is_grad_enabled()):
                losses[name] = of_points(logits, target, region)
    return losses


@torch.no_grad()
def select_points(low_res_logits: Tensor, valid: Tensor, pixels: Tensor) -> Tensor:
    """Select the points (N, K) of masks: three quarters from 12 of 13 pixels, and all others.

    The most uncertain pixels are those whose logits are nearest to 0. Pixels that are not valid
    are among them only if too few others were drawn. Arguments are those of `losses_at_points`.
    """
    quarter = pixels.shape[1] // 13
    candidates, random = pixels.split([12 * quarter, quarter], dim=1)
    certainty = logits_at_pixels(low_res_logits, candidates, valid.shape[1]).abs()
    certainty = certainty.masked_fill(~at_points(valid, candidates), torch.inf)
    uncertain = certainty.topk(3 * quarter, dim=1, largest=False).indices
    return torch.cat([candidates.gather(1, uncertain), random], dim=1)


@torch.no_grad()
def _region_at(
    points: Tensor, truth: Tensor, find: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> Tensor:
    """Return whether points (N, K) lie in a region of the truth; a few masks are read at a time."""
    parts = zip(truth.split(_REGIONS_AT_ONCE), points.split(_REGIONS_AT_ONCE), strict=True)
    return torch.cat([at_points(find(masks.to(dtype)), places) for masks, places in parts])


def logits_at_pixels(low_res_logits: Tensor, pixels: Tensor, side: int) -> Tensor:
    """Return the logits (N, K) that `upscale_logits` gives at pixels, without those of the others.

    low_res_logits: (N, S/4, S/4). pixels: (N, K), as in `random_pixels`. side: S.
    """
    logits = full_precision(low_res_logits)
    corners = torch.stack([pixels % side, pixels // side], dim=-1).to(logits.dtype)
    return logits_at(logits, corners + 0.5, side)


def logits_at(low_res_logits: Tensor, points: Tensor, side: int) -> Tensor:
    """Return the logits (N, K) of masks (N, S/4, S/4) at points (N, K, 2), interpolated.

    points: xy in pixels of the model frame, whose side is S; (0, 0) is a corner of the frame.
    """
    grid = (2 * points / side - 1)[:, None]  # from -1 to 1 between the edges of the frame
    sampled = F.grid_sample(
        *(low_res_logits[:, None], grid), padding_mode="border", align_corners=False
    )
    return sampled[:, 0, 0]


def at_points(values: Tensor, points: Tensor) -> Tensor:
    """Return the values (N, K) of (N, S, S) at points (N, K)."""
    return values.flatten(1).gather(1, points)
