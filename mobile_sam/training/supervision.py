"""What the truth says to the masks of prompts: to the one mask, and to the best of three.

A single point may mean a part, the whole, or what lies around it. As in SAM's own training
(Kirillov et al., arXiv:2304.02643, section 3) only the best of its three masks learns from it. The
one mask for clear prompts learns from single points too, with the same weight, so that it answers
them where only one mask is wanted.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mobile_sam.models.mask_decoder import Decoded
from mobile_sam.models.prompt_encoder import FOREGROUND
from mobile_sam.training.losses import (
    boundary,
    dice,
    focal,
    full_precision,
    iou_error,
    measured_iou,
)

Losses = dict[str, Tensor]


def is_ambiguous(labels: Tensor, has_mask: Tensor | None) -> Tensor:
    """(N,) bool, the prompts that are one foreground point and nothing else.

    labels: (N, T); has_mask: (N,) bool, or None where no prompt has a mask.
    """
    lone = ((labels >= 0).sum(1) == 1) & (labels == FOREGROUND).any(1)
    return lone if has_mask is None else lone & ~has_mask


def upscaled(low_res_logits: Tensor, img_size: int) -> Tensor:
    """Logits (N, M, S, S) of low_res_logits (N, M, S/4, S/4), in the model frame."""
    size = (img_size, img_size)
    return F.interpolate(full_precision(low_res_logits), size, mode="bilinear")


def supervised_losses(
    decoded: Decoded, truth: Tensor, valid: Tensor, ambiguous: Tensor, weights: Mapping[str, float]
) -> Losses:
    """Unweighted losses of each prompt, (N,), by name; and `train_iou`, of the one mask.

    decoded: the one mask, or all four where any prompt of `ambiguous` (N,) is to have the best of
        three. Its losses are then the means over the one mask and the best; every one of the
        three learns to predict its own IoU.
    truth, valid: (N, S, S), 0 or 1.
    """
    logits = upscaled(decoded.low_res_logits[:, :1], truth.shape[1])[:, 0]
    losses = {name: MASK_LOSSES[name](logits, truth, valid) for name in weights if name != "iou"}
    measured = measured_iou(logits, truth, valid)
    if "iou" in weights:
        losses["iou"] = iou_error(full_precision(decoded.predicted_iou[:, 0]), measured)
    rows = ambiguous.nonzero().squeeze(1)
    if len(rows) and decoded.low_res_logits.shape[1] > 1:
        of_rows = Decoded(*(field[rows, 1:] for field in decoded))
        best = _best_of_three(of_rows, truth[rows], valid[rows], weights)
        for name, loss in best.items():
            losses[name] = losses[name].index_add(0, rows, (loss - losses[name][rows]) / 2)
    return losses | {"train_iou": measured}


def _best_of_three(
    decoded: Decoded, truth: Tensor, valid: Tensor, weights: Mapping[str, float]
) -> Losses:
    """Losses (N,) of the best of three masks; `iou` is the mean of all three."""
    size = truth.shape[1]
    best = _least_loss(full_precision(decoded.low_res_logits), truth, valid, weights)
    chosen = decoded.low_res_logits[torch.arange(len(best), device=best.device), best]
    logits = upscaled(chosen[:, None], size)[:, 0]
    losses = {name: MASK_LOSSES[name](logits, truth, valid) for name in weights if name != "iou"}
    if "iou" in weights:
        with torch.no_grad():
            masks = [upscaled(m[:, None], size)[:, 0] for m in decoded.low_res_logits.unbind(1)]
            measured = torch.stack([measured_iou(mask, truth, valid) for mask in masks], dim=1)
        losses["iou"] = iou_error(full_precision(decoded.predicted_iou), measured).mean(1)
    return losses


@torch.no_grad()
def _least_loss(
    low_res_logits: Tensor, truth: Tensor, valid: Tensor, weights: Mapping[str, float]
) -> Tensor:
    """Which of M masks (N, M, S/4, S/4) has the least weighted focal and dice loss; (N,).

    At their own size, where a pixel of the truth is set if any that it covers is: a sixteenth of
    the work.
    """
    size = low_res_logits.shape[-2:]
    small_truth, small_valid = (
        F.adaptive_max_pool2d(x[:, None], size)[:, 0] for x in (truth, valid)
    )
    terms = [(w, MASK_LOSSES[n]) for n, w in weights.items() if n in {"focal", "dice"} and w]
    terms = terms or [(1.0, dice)]
    found = [
        sum(weight * loss(mask, small_truth, small_valid) for weight, loss in terms)
        for mask in low_res_logits.unbind(1)
    ]
    return torch.stack(found, dim=1).argmin(1)  # type: ignore[arg-type]


def most_confident(decoded: Decoded, ambiguous: Tensor) -> Tensor:
    """The mask that a person would go on with, low_res_logits (N, 1, S/4, S/4), no gradient.

    Of the three of an ambiguous prompt the one with the highest predicted IoU; else the one.
    """
    chosen = torch.zeros(len(ambiguous), dtype=torch.long, device=ambiguous.device)
    if decoded.low_res_logits.shape[1] > 1:
        chosen = torch.where(ambiguous, 1 + decoded.predicted_iou[:, 1:].argmax(1), chosen)
    rows = torch.arange(len(chosen), device=chosen.device)
    return decoded.low_res_logits[rows, chosen, None].detach()


MASK_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "focal": focal,
    "dice": dice,
    "boundary": boundary,
}
