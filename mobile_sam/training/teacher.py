"""Where a batch's teacher features come from: the stores, or the teachers themselves."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mobile_sam.config import RunConfig
from mobile_sam.data.dataset import Sample
from mobile_sam.data.index import IndexedImage
from mobile_sam.extraction.passes import teacher_pass
from mobile_sam.features.identity import identity
from mobile_sam.features.store import FeatureStore
from mobile_sam.layout import RunPaths
from mobile_sam.models.roles import load_teacher
from mobile_sam.options import level_name, teacher_level
from mobile_sam.stage import Stage
from mobile_sam.teachers import teacher_configs, teacher_shares
from mobile_sam.training.answers import TeacherDecoder


class FeatureStores:
    """Features of images by all teachers, each with a store of its own, the first's first."""

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = stores

    def read(self, record: IndexedImage, view: str = "identity") -> dict[str, Tensor]:
        """As `FeatureStore.read`, by the names that `teacher_level` gives."""
        return _named([store.read(record, view) for store in self.stores])


def stored_features(config: RunConfig, stage: Stage) -> FeatureStores | None:
    """What the samples of a stage read; None for a stage that does not, or distils online."""
    if not stage.distils or config.teacher == "online":
        return None
    return FeatureStores(
        [FeatureStore(RunPaths(c).features, identity(c)) for c in teacher_configs(config)]
    )


def online_features(
    config: RunConfig, stage: Stage, device: torch.device
) -> Callable[[Sample], Sample]:
    """Gives batches the features of the teachers, which look at their very images.

    With stored features, and without distillation, batches stay as they are. The teachers are in
    no checkpoint: they are read anew when a stage is resumed.
    """
    if not stage.distils or config.teacher == "stored":
        return lambda batch: batch
    teachers = [
        (load_teacher(teacher).to(device).image_encoder, teacher.distill_levels)
        for teacher in teacher_configs(config)
    ]

    def look(batch: Sample) -> Sample:
        seen = [teacher_pass(encoder, batch.image, levels) for encoder, levels in teachers]
        return batch._replace(teacher=_named(seen))

    return look


def teacher_decoders(config: RunConfig, device: torch.device) -> tuple[TeacherDecoder, ...]:
    """What answers prompts in the teachers' place, from their embeddings."""
    teachers = zip(teacher_configs(config), teacher_shares(config), strict=True)
    return tuple(
        TeacherDecoder(
            load_teacher(teacher), teacher_level(number, level_name("neck")), share, device
        )
        for number, (teacher, share) in enumerate(teachers)
    )


def _named(of_teachers: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        teacher_level(number, name): features
        for number, levels in enumerate(of_teachers)
        for name, features in levels.items()
    }
