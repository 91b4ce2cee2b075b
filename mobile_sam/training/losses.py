"""Loss functions, which return one value for each image or prompt.

A function has the name of its loss in `mobile_sam/config/losses.py`. Its arguments depend on the
kind of the loss:

- `mask`: mask logits and the truth, (N, H, W), and the valid pixels;
- `iou`: predicted and measured IoU of masks, of equal shapes;
- `features`: features of student and teacher, (B, C, h, w), and the weights of their places;
- `prompts`: results of both decoders for the same prompts, and the valid pixels.

Padding and ignored regions are not valid.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mobile_sam.config.losses import LOSSES
from mobile_sam.models.mask_decoder import Decoded

_ALPHA = 0.25
_BAND = 1 / 128  # of the model frame's side: 8 pixels on each side of an edge at 1024
_PLACES = 16  # side of the grid of places that `relation` compares


def full_precision(x: Tensor) -> Tensor:
    """Convert values of mixed precision to float32, but keep float64."""
    return x if x.dtype == torch.float64 else x.float()


class _Focal(torch.autograd.Function):
    """Focal loss of each pixel that stores only its inputs for the backward pass.

    With z, the logit against the truth, s = sigmoid(z) and c = softplus(z), the cross-entropy: the
    loss is b s**2 c, and its derivative by z is b s**2 (2 (1 - s) c + s).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor) -> Tensor:
        ctx.save_for_backward(logits, truth)
        against = logits * (1 - 2 * truth)
        return _balance(truth) * torch.sigmoid(against).square() * F.softplus(against)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, truth = ctx.saved_tensors
        sign = 1 - 2 * truth
        against = logits * sign
        wrong = torch.sigmoid(against)
        slope = wrong.square() * (2 * (1 - wrong) * F.softplus(against) + wrong)
        return gradient * _balance(truth) * slope * sign, None


def _balance(truth: Tensor) -> Tensor:
    return _ALPHA * truth + (1 - _ALPHA) * (1 - truth)


def focal(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Focal loss, the mean over valid pixels (Lin et al., arXiv:1708.02002, equation 5).

    Alpha is 0.25 and gamma 2, as in the paper.
    logits: (N, H, W) before the sigmoid; truth: (N, H, W) 0 or 1; valid: (N, H, W) 0 or 1.
    Returns (N,).
    """
    return _mean(_Focal.apply(logits, truth), valid)


def dice(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, smoothed by one pixel (arXiv:1606.04797).

    Shapes as in `focal`. Returns (N,).
    """
    probability = torch.sigmoid(logits) * valid
    truth = truth * valid
    overlap = (probability * truth).sum((1, 2))
    total = probability.sum((1, 2)) + truth.sum((1, 2))
    return 1 - (2 * overlap + 1) / (total + 1)


def boundary(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy, the mean over valid pixels in a band along the edge of the object.

    The band is what a square of side H / 64 covers when it moves along the edge, a narrower version
    of that of Boundary IoU (Cheng et al., arXiv:2103.16562). 0 if there is no edge.
    Shapes as in `focal`. Returns (N,).
    """
    return cross_entropy(logits, truth, edge_band(truth) * valid)


def cross_entropy(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over valid pixels; shapes as in `focal`. Returns (N,)."""
    return _mean(F.binary_cross_entropy_with_logits(logits, truth, reduction="none"), valid)


def edge_band(truth: Tensor) -> Tensor:
    """Return the band of `boundary` along the edge of the object, (N, H, W), 0 or 1."""
    reach = max(1, round(truth.shape[1] * _BAND))
    return _dilated(truth, reach) - (1 - _dilated(1 - truth, reach))


def _dilated(mask: Tensor, reach: int) -> Tensor:
    """Return the largest value (N, H, W) within `reach` pixels in each direction."""
    side = 2 * reach + 1  # columns, then rows: two lines cost less than a square
    rows = F.max_pool2d(mask[:, None], (side, 1), stride=1, padding=(reach, 0))
    return F.max_pool2d(rows, (1, side), stride=1, padding=(0, reach))[:, 0]


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return (values * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


def iou(predicted_iou: Tensor, measured_iou: Tensor) -> Tensor:
    """Squared error of the predicted IoU; both (N,). The measured IoU gets no gradient."""
    return (predicted_iou - measured_iou.detach()) ** 2


@torch.no_grad()
def measured_iou(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Compute the IoU of `logits > 0` with the truth; shapes as in `focal`. Returns (N,)."""
    prediction, target, inside = logits > 0, truth > 0.5, valid > 0.5
    overlap = (prediction & target & inside).sum((1, 2))
    union = ((prediction | target) & inside).sum((1, 2))
    return overlap.to(logits.dtype) / union.clamp(min=1)


def mse(student: Tensor, teacher: Tensor, places: Tensor) -> Tensor:
    """Mean squared error of features (B, C, h, w), weighted by place; (B,).

    places: (B, h, w), the weight of each place; 0 for padding.
    """
    return _mean_of_places((student - teacher).square().mean(1), places)


def cosine(student: Tensor, teacher: Tensor, places: Tensor) -> Tensor:
    """One minus the cosine of feature vectors, weighted by place as in `mse`; (B,)."""
    return _mean_of_places(1 - F.cosine_similarity(student, teacher, dim=1), places)


def attention(student: Tensor, teacher: Tensor, places: Tensor) -> Tensor:
    """Squared distance of attention maps of (B, C, h, w), summed over places as in `mse`; (B,).

    An attention map is the sum of squares over channels, scaled to length 1 (Zagoruyko and
    Komodakis, arXiv:1612.03928, equation 2). The length is weighted by place, too.
    """
    weight = places.sqrt()
    maps = [(x.square().sum(1) * weight).flatten(1) for x in (student, teacher)]
    return (F.normalize(maps[0]) - F.normalize(maps[1])).square().sum(1)


def relation(student: Tensor, teacher: Tensor, places: Tensor) -> Tensor:
    """Mean squared error of the cosines between all pairs of places of (B, C, h, w); (B,).

    The pair-wise distillation of Liu et al. (arXiv:1903.04197, equation 2), over a grid of at most
    16 by 16 places, because a 64 by 64 embedding has 16 million pairs. The weight of a pair is the
    product of the weights of its places, as in `mse`.
    """
    weight = _on_grid(places[:, None])[:, 0]  # (B, grid * grid)
    pairs = weight[:, :, None] * weight[:, None]
    errors = (_cosines(student, places) - _cosines(teacher, places)).square()
    return _mean_of_places(errors, pairs)


def _mean_of_places(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum((1, 2)) / weights.sum((1, 2))


def _cosines(features: Tensor, places: Tensor) -> Tensor:
    vectors = F.normalize(_on_grid(features * places[:, None]), dim=1)
    # The three digits of bfloat16 are too few for differences.
    with torch.autocast(features.device.type, enabled=False):
        return vectors.transpose(1, 2) @ vectors


def _on_grid(maps: Tensor) -> Tensor:
    """Average maps (B, C, h, w) to (B, C, grid * grid)."""
    grid = min(_PLACES, maps.shape[2]), min(_PLACES, maps.shape[3])
    return F.adaptive_avg_pool2d(maps, grid).flatten(2)


def mask_bce(student: Decoded, teacher: Decoded, valid: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the student's from the teacher's pixels; (N,).

    Each pixel is a Bernoulli distribution: binary cross-entropy to the teacher's probability minus
    the teacher's entropy, so that it is 0 if both agree. The mean is over valid pixels and masks.
    valid: (N, 1, S/4, S/4), 0 or 1.
    """
    logits, target = _logits(student), _logits(teacher).to(_logits(student).dtype)
    probability = torch.sigmoid(target)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, probability, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(target, probability, reduction="none")
    counted = valid.expand_as(logits)
    return ((cross_entropy - entropy) * counted).sum((1, 2, 3)) / counted.sum((1, 2, 3)).clamp(
        min=1
    )


def mask_dice(student: Decoded, teacher: Decoded, valid: Tensor) -> Tensor:
    """Soft Dice loss of the student's to the teacher's probabilities, the mean over masks; (N,).

    It has squares in the denominator (Milletari et al., arXiv:1606.04797) and is smoothed by one
    pixel, so the minimum is 0, where both are equal, even if the teacher is unsure.
    """
    first, second = (torch.sigmoid(_logits(x)) * valid for x in (student, teacher))
    overlap = (first * second).sum((2, 3))
    total = first.square().sum((2, 3)) + second.square().sum((2, 3))
    return (1 - (2 * overlap + 1) / (total + 1)).mean(1)


def mask_tokens(student: Decoded, teacher: Decoded, valid: Tensor) -> Tensor:
    """Mean squared error of the output tokens of masks; (N,)."""
    first, second = (full_precision(x.mask_tokens) for x in (student, teacher))
    return (first - second).square().mean((1, 2))


def predicted_iou(student: Decoded, teacher: Decoded, valid: Tensor) -> Tensor:
    """Squared error of the predicted IoU, the mean over masks; (N,)."""
    first, second = (full_precision(x.predicted_iou) for x in (student, teacher))
    return (first - second).square().mean(1)


def _logits(decoded: Decoded) -> Tensor:
    return full_precision(decoded.low_res_logits)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {name: globals()[name] for name in LOSSES}
# Losses of kind `mask` that look at more of the truth than the pixels of the logits: the pixels of
# the whole truth that they count, (N, H, W), and the loss of these pixels alone. All others of this
# kind take any pixels, (N, 1, K).
IN_REGIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]] = {
    "boundary": (edge_band, cross_entropy)
}
