"""Where a batch's teacher features come from: the store, or the teacher itself."""

from collections.abc import Callable

import torch

from mobile_sam.config import RunConfig
from mobile_sam.data.dataset import Sample
from mobile_sam.extraction import teacher_pass
from mobile_sam.features import FeatureStore, identity
from mobile_sam.layout import RunPaths
from mobile_sam.models.roles import load_teacher
from mobile_sam.options import level_name
from mobile_sam.schedule import Stage
from mobile_sam.training.answers import TeacherDecoder


def stored_features(config: RunConfig, stage: Stage) -> FeatureStore | None:
    """What the samples of a stage read; None for a stage that does not, or distils online."""
    if not stage.distils or config.teacher == "online":
        return None
    return FeatureStore(RunPaths(config).features, identity(config))


def online_features(
    config: RunConfig, stage: Stage, device: torch.device
) -> Callable[[Sample], Sample]:
    """Gives batches the features of the teacher, which looks at their very images.

    With stored features, and without distillation, batches stay as they are. The teacher is in no
    checkpoint: it is read anew when a stage is resumed.
    """
    if not stage.distils or config.teacher == "stored":
        return lambda batch: batch
    encoder = load_teacher(config).to(device).image_encoder

    def look(batch: Sample) -> Sample:
        return batch._replace(teacher=teacher_pass(encoder, batch.image, config.distill_levels))

    return look


def teacher_decoders(config: RunConfig, device: torch.device) -> tuple[TeacherDecoder, ...]:
    """What answers prompts in the teachers' place, from their embeddings."""
    return (TeacherDecoder(load_teacher(config), level_name("neck"), 1.0, device),)
