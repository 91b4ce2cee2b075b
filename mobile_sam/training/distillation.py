"""Distillation: the student's image embedding is drawn to the teacher's features."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.config import ConfigError
from mobile_sam.options import DistillLosses


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of features (B, C, h, w); a scalar."""
    return F.mse_loss(student, teacher)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of feature vectors, the mean over pixels of (B, C, h, w); a scalar."""
    return (1 - F.cosine_similarity(student, teacher, dim=1)).mean()


class Distiller(nn.Module):
    """Weighted distillation losses, the mean over levels.

    student_channels: of the student's embedding.
    levels: by name; None for one that the embedding is compared with directly, else the channels
        of the teacher's block, for which the embedding has a learned 1x1 projection.
    The projections are trained with the student and are no part of its exported weights.
    """

    def __init__(
        self,
        weights: DistillLosses,
        student_channels: int,
        levels: Mapping[str, int | None],
        seed: int,
    ) -> None:
        super().__init__()
        self.weights = {name: w for name, w in weights.model_dump().items() if w}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projections = nn.ModuleDict(
                {
                    name: nn.Identity()
                    if channels is None
                    else nn.Conv2d(student_channels, channels, kernel_size=1)
                    for name, channels in levels.items()
                }
            )

    def forward(self, embedding: Tensor, teacher: dict[str, Tensor]) -> Tensor:
        """The mean over levels of the weighted sum, a scalar.

        embedding: the student's (B, C, S/16, S/16).
        teacher: features (B, C', S/16, S/16) of each level, by its name.
        Raises ConfigError for shapes that differ after the projection.
        """
        sums = [
            self._level(name, *_exact(projection(embedding), teacher[name]))
            for name, projection in self.projections.items()
        ]
        return torch.stack(sums).mean()

    def _level(self, name: str, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            raise ConfigError(
                f"distillation: the teacher's features ({name}) are {tuple(teacher.shape)}, the "
                f"student gives {tuple(student.shape)}; run `extract` again with this img_size, or "
                "choose a teacher of the same embed_dim"
            )
        terms = [w * DISTILL_LOSSES[loss](student, teacher) for loss, w in self.weights.items()]
        return torch.stack(terms).sum()


def _exact(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(student.dtype, torch.float32)
    return student.to(dtype), teacher.to(dtype)


DISTILL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "cosine": cosine}
