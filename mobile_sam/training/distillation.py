"""Distillation of features: the student's image embedding is drawn to what teachers give."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.config import ConfigError
from mobile_sam.training.losses import full_precision

_PLACES = 16  # side of the grid whose places `relation` compares with each other


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of features (B, C, h, w); (B,)."""
    return (student - teacher).square().mean((1, 2, 3))


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of feature vectors, the mean over pixels of (B, C, h, w); (B,)."""
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean((1, 2))


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of attention maps of (B, C, h, w); (B,).

    Such a map is the sum of squares over channels, scaled to length 1 (Zagoruyko and Komodakis,
    arXiv:1612.03928, equation 2).
    """
    first, second = (F.normalize(x.square().sum(1).flatten(1)) for x in (student, teacher))
    return (first - second).square().sum(1)


def relation(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of the cosines between all pairs of places of (B, C, h, w), their mean; (B,).

    The pair-wise distillation of Liu et al. (arXiv:1903.04197, equation 2), over a grid of at most
    16 by 16 places: all pairs of a 64 by 64 embedding would be 16 million.
    """
    return (_cosines(student) - _cosines(teacher)).square().mean((1, 2))


def _cosines(features: Tensor) -> Tensor:
    grid = min(_PLACES, features.shape[2]), min(_PLACES, features.shape[3])
    places = F.normalize(F.adaptive_avg_pool2d(features, grid).flatten(2), dim=1)
    # Three digits of bfloat16 are too few for what is compared by differences.
    with torch.autocast(features.device.type, enabled=False):
        return places.transpose(1, 2) @ places


class Level(NamedTuple):
    """What the embedding is compared with: features of a teacher.

    channels: of a block, for which the embedding has a learned projection; None compares directly.
    share: of all that is compared; the shares of a run add up to 1.
    """

    channels: int | None
    share: float = 1.0


class Distiller(nn.Module):
    """Losses between the student's embedding and features of teachers, the mean by shares.

    student_channels: of the student's embedding.
    levels: by their names in a batch.
    The 1x1 projections are trained with the student and are no part of its exported weights.
    """

    def __init__(self, student_channels: int, levels: Mapping[str, Level], seed: int) -> None:
        super().__init__()
        self.shares = {name: level.share for name, level in levels.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projections = nn.ModuleDict(
                {
                    name: nn.Identity()
                    if level.channels is None
                    else nn.Conv2d(student_channels, level.channels, kernel_size=1)
                    for name, level in levels.items()
                }
            )

    def forward(
        self, embedding: Tensor, teacher: dict[str, Tensor], weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Each loss that has a weight, unweighted: (B,) by its name.

        embedding: the student's (B, C, S/16, S/16).
        teacher: features (B, C', S/16, S/16) of each level, by its name.
        Raises ConfigError for shapes that differ after the projection.
        """
        losses = {name: full_precision(embedding.new_zeros(len(embedding))) for name in weights}
        for level, projection in self.projections.items():
            student = full_precision(projection(embedding))
            target = teacher[level].to(student.dtype)
            if student.shape != target.shape:
                raise ConfigError(
                    f"distillation: the teacher's features ({level}) are {tuple(target.shape)}, "
                    f"the student gives {tuple(student.shape)}; run `extract` again with this "
                    "img_size, or choose a teacher of the same embed_dim"
                )
            for name in weights:
                found = DISTILL_LOSSES[name](student, target)
                losses[name] = losses[name] + self.shares[level] * found
        return losses


DISTILL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "cosine": cosine,
    "attention": attention,
    "relation": relation,
}
