"""Teachers of a stage: their features, stored or computed for a batch, and their decoders."""

from collections.abc import Callable, ItemsView, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import level_name, teacher_level
from mobile_sam.config.stage import Stage
from mobile_sam.config.teachers import teacher_configs, teacher_shares
from mobile_sam.data.index.table import IndexedImage
from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.extraction.passes import teacher_pass
from mobile_sam.features.identity import identity
from mobile_sam.features.store import FeatureStore
from mobile_sam.models.device import move_to_device
from mobile_sam.models.mask_decoder import Decoded
from mobile_sam.models.sam import Sam
from mobile_sam.models.student_teacher import load_teacher
from mobile_sam.paths import RunPaths


class FeatureStores:
    """Features of images by all teachers, in order; each teacher has its own store."""

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = stores

    def read(self, record: IndexedImage, view: str = "identity") -> dict[str, Tensor]:
        """Read the features of an image like `FeatureStore.read`, by `teacher_level`."""
        return _by_level([store.read(record, view) for store in self.stores])


def stored_features(config: RunConfig, stage: Stage) -> FeatureStores | None:
    """Return the features that samples of a stage read; None if it reads none or distils online."""
    if not stage.distillation or config.teacher_features == "online":
        return None
    return FeatureStores(
        [FeatureStore(RunPaths(c).features, identity(c)) for c in teacher_configs(config)]
    )


def online_features(
    config: RunConfig, stage: Stage, device: torch.device
) -> Callable[[Sample], Sample]:
    """Return a function that computes the features of the teachers and adds them to a batch.

    It does nothing with stored features or without distillation. Checkpoints do not contain the
    teachers; a resumed stage loads them again.
    """
    if not stage.distillation or config.teacher_features == "stored":
        return lambda batch: batch
    teachers = [
        (move_to_device(load_teacher(teacher), device).image_encoder, teacher.distill_levels)
        for teacher in teacher_configs(config)
    ]

    def add_features(batch: Sample) -> Sample:
        images = batch.normalised()
        features = [teacher_pass(encoder, images, levels) for encoder, levels in teachers]
        return batch._replace(teacher=_by_level(features))

    return add_features


class Level(NamedTuple):
    """Features of a teacher that the student's embedding is compared with.

    channels: channels of a block, to which the embedding is projected; None compares it directly.
    share: weight among all levels; the shares of a run add up to 1.
    """

    channels: int | None
    share: float = 1.0


class FeatureProjections(nn.Module):
    """Projections of the student's embedding to the channels of each level, 1x1 convolutions.

    They are trained with the student but are not part of its exported weights.

    student_channels: channels of the student's embedding.
    levels: levels by their names in a batch.
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

    def items(self) -> ItemsView[str, nn.Module]:
        """Return the projections by the names of their levels."""
        return self.projections.items()


class TeacherDecoder:
    """Prompt encoder and mask decoder of a teacher, which run on its embeddings.

    name: name of its embedding in a batch; share: weight among all teachers; the shares of a run
    add up to 1. It is not a module, so checkpoints of the student do not contain it.
    """

    def __init__(self, teacher: Sam, name: str, share: float, device: torch.device) -> None:
        self.name, self.share = name, share
        teacher.image_encoder = nn.Identity()  # large, and not needed any more
        self._teacher = move_to_device(teacher.eval().requires_grad_(False), device)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the parameters."""
        return self._teacher.dtype

    @torch.no_grad()
    def __call__(self, embedding: Tensor, **prompts: Any) -> Decoded:
        """Decode prompts with the arguments and results of `Sam.decode_all`."""
        return self._teacher.decode_all(embedding.to(self.dtype), **prompts)


def teacher_decoders(config: RunConfig, device: torch.device) -> tuple[TeacherDecoder, ...]:
    """Load the decoders of all teachers."""
    teachers = zip(teacher_configs(config), teacher_shares(config), strict=True)
    return tuple(
        TeacherDecoder(
            load_teacher(teacher), teacher_level(number, level_name("neck")), share, device
        )
        for number, (teacher, share) in enumerate(teachers)
    )


def _by_level(features: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Merge the features of several teachers by the names of `teacher_level`."""
    return {
        teacher_level(number, name): tensor
        for number, levels in enumerate(features)
        for name, tensor in levels.items()
    }
