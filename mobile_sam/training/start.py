"""What a stage starts from: its learner, its samples, and what identifies its inputs."""

import hashlib
import json
from pathlib import Path

from mobile_sam.architectures import feature_channels
from mobile_sam.config import RunConfig
from mobile_sam.data.dataset import TrainingSet
from mobile_sam.data.index import Index
from mobile_sam.features import identity
from mobile_sam.layout import RunPaths
from mobile_sam.models.roles import start_student
from mobile_sam.models.weights import file_digest
from mobile_sam.options import Level, level_name
from mobile_sam.schedule import Stage, any_distillation, canonical
from mobile_sam.training.distillation import Distiller
from mobile_sam.training.learner import Learner
from mobile_sam.training.teacher import stored_features


def new_learner(config: RunConfig, stage: Stage) -> Learner:
    """The learner before the first step; one shape for all stages, so all of it carries over."""
    student = feature_channels(config.model_type, "neck")
    levels = {level_name(level): _projected(config, level) for level in config.distill_levels}
    distiller = Distiller(config.distill_losses, student, levels, config.seed)
    return Learner(start_student(config), distiller, stage)


def training_set(config: RunConfig, stage: Stage) -> TrainingSet:
    """The samples of a stage, with what it reads of the teacher."""
    store = stored_features(config, stage)
    return TrainingSet(
        Index(RunPaths(config).index, "train"),
        config.img_size,
        config.objects_per_image if stage.supervised else 1,
        stage.prompts,
        stage.augment,
        config.seed,
        None if store is None else store.read,
    )


def _projected(config: RunConfig, level: Level) -> int | None:
    """Channels of a teacher's block; None for the neck, and for a run that never distils."""
    if level == "neck" or not any_distillation(config):
        return None
    return feature_channels(config.teacher_model_type or "", level)


def state_key(config: RunConfig, stage: Stage, index: Path, previous: Path | None) -> str:
    """Equal for two states that lead to the same weights."""
    inputs = {
        "settings": canonical(config, stage),
        "index": file_digest(index),
        "previous": None if previous is None else file_digest(previous),
        "teacher": identity(config) if stage.distillation else None,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
