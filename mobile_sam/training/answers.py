"""Prompt in the loop: student and teacher answer the same prompts, and the answers are compared.

The teacher's light decoder runs on its stored embeddings, so that no large encoder is needed while
training. The idea is EdgeSAM's (Zhou et al., arXiv:2312.06660, section 3.2).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.models.mask_decoder import Decoded
from mobile_sam.models.sam import Sam
from mobile_sam.training.losses import full_precision


class TeacherDecoder:
    """What answers prompts of a teacher, from its embeddings.

    name: of its embedding in a batch; share: of all teachers; the shares of a run add up to 1.
    It is no module, so that no checkpoint of the student holds it.
    """

    def __init__(self, teacher: Sam, name: str, share: float, device: torch.device) -> None:
        self.name, self.share = name, share
        teacher.image_encoder = nn.Identity()  # which is large, and has done its work
        self._teacher = teacher.eval().requires_grad_(False).to(device)

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters."""
        return self._teacher.dtype

    @torch.no_grad()
    def __call__(self, embedding: Tensor, **prompts: Any) -> Decoded:
        """Arguments and answers as of `Sam.decode_all`."""
        return self._teacher.decode_all(embedding.to(self.dtype), **prompts)


def mask_bce(student: Decoded, teacher: Decoded, valid: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's from the teacher's pixels, a mean; (N,).

    Of Bernoulli distributions: binary cross-entropy to the teacher's probabilities, less their own
    entropy, so that it is 0 at the teacher. The mean is over valid pixels and masks.
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

    With squares in the denominator (Milletari et al., arXiv:1606.04797), smoothed by one pixel: so
    it is least, and 0, where both are equal, also where the teacher is unsure.
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


def answer_losses(
    student: Decoded, teachers: Sequence[tuple[float, Decoded]], valid: Tensor, names: Iterable[str]
) -> dict[str, Tensor]:
    """The losses of those names, unweighted, each the mean over teachers; (N,).

    teachers: the share of each, and its answers to the prompts that the student answered.
    valid: (N, S/4, S/4), 0 or 1.
    """
    return {
        name: torch.stack(
            [share * ANSWER_LOSSES[name](student, t, valid[:, None]) for share, t in teachers]
        ).sum(0)
        for name in names
    }


ANSWER_LOSSES: dict[str, Callable[[Decoded, Decoded, Tensor], Tensor]] = {
    "mask_bce": mask_bce,
    "mask_dice": mask_dice,
    "mask_tokens": mask_tokens,
    "predicted_iou": predicted_iou,
}
