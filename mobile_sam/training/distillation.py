"""Distillation: the student's image embedding is drawn to the teacher's stored features."""

from collections.abc import Callable

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
    """Weighted distillation losses, with a learned 1x1 projection where the channels are a block's.

    student_channels: of the student's embedding; teacher_channels: of the stored features.
    project: false compares embeddings directly.
    The projection is trained with the student and is no part of its exported weights.
    """

    def __init__(
        self,
        weights: DistillLosses,
        student_channels: int,
        teacher_channels: int,
        project: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.weights = {name: w for name, w in weights.model_dump().items() if w}
        self.projection: nn.Module = nn.Identity()
        if project:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.projection = nn.Conv2d(student_channels, teacher_channels, kernel_size=1)

    def forward(self, embedding: Tensor, teacher: Tensor) -> Tensor:
        """The weighted sum, a scalar.

        embedding: the student's (B, C, S/16, S/16); teacher: (B, C', S/16, S/16).
        Raises ConfigError for shapes that differ after the projection.
        """
        student = self.projection(embedding).float()
        if student.shape != teacher.shape:
            raise ConfigError(
                f"distillation: the teacher's features are {tuple(teacher.shape)}, the student "
                f"gives {tuple(student.shape)}; run `extract` again with this img_size, or choose "
                "a teacher of the same embed_dim"
            )
        terms = [w * DISTILL_LOSSES[name](student, teacher) for name, w in self.weights.items()]
        return torch.stack(terms).sum()


DISTILL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "cosine": cosine}
