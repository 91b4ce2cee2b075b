"""What a stage starts from: the learner of its run, and what identifies its inputs."""

import hashlib
import json
from pathlib import Path

from mobile_sam.architectures import feature_channels
from mobile_sam.config import RunConfig
from mobile_sam.features import identity
from mobile_sam.models.roles import start_student
from mobile_sam.models.weights import file_digest
from mobile_sam.schedule import Stage, any_distillation, canonical
from mobile_sam.training.distillation import Distiller
from mobile_sam.training.learner import Learner


def new_learner(config: RunConfig) -> Learner:
    """The learner before the first step; one shape for all stages, so all of it carries over."""
    level = config.distill_feature_level
    student = feature_channels(config.model_type, "neck")
    project = level != "neck" and any_distillation(config)
    teacher = feature_channels(config.teacher_model_type or "", level) if project else student
    distiller = Distiller(config.distill_losses, student, teacher, project, config.seed)
    return Learner(start_student(config), distiller)


def state_key(config: RunConfig, stage: Stage, index: Path, previous: Path | None) -> str:
    """Equal for two states that lead to the same weights."""
    inputs = {
        "settings": canonical(config, stage),
        "index": file_digest(index),
        "previous": None if previous is None else file_digest(previous),
        "teacher": identity(config) if stage.distillation else None,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
