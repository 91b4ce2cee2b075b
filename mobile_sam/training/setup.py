"""What a stage starts from: its learner, its samples, and what identifies its inputs."""

import hashlib
import json
from pathlib import Path

import torch

from mobile_sam.architectures import feature_channels
from mobile_sam.config import RunConfig
from mobile_sam.data.dataset import TrainingSet
from mobile_sam.data.index import UNLABELLED, Index
from mobile_sam.features.identity import identity
from mobile_sam.files import file_digest
from mobile_sam.layout import RunPaths
from mobile_sam.models.roles import start_student
from mobile_sam.options import level_name, teacher_level
from mobile_sam.schedule import any_distillation, canonical, learns_without_masks
from mobile_sam.stage import Stage
from mobile_sam.teachers import projections, teacher_configs, teacher_shares
from mobile_sam.training.distillation import Distiller, Level
from mobile_sam.training.learner import Learner
from mobile_sam.training.objective import objective
from mobile_sam.training.teacher import stored_features, teacher_decoders


def new_learner(config: RunConfig, stage: Stage, device: torch.device) -> Learner:
    """The learner of a stage before its first step.

    Its parameters have the same shapes in all stages, so that all of it carries over.
    """
    student = feature_channels(config.model_type, "neck")
    return Learner(
        start_student(config),
        Distiller(student, _levels(config), config.seed),
        objective(config, stage),
        teacher_decoders(config, device) if stage.compares_answers else (),
    )


def training_set(config: RunConfig, stage: Stage) -> TrainingSet:
    """The samples of a stage, with what it reads of the teacher."""
    store, index = stored_features(config, stage), RunPaths(config).index
    return TrainingSet(
        Index(index, "train"),
        config.img_size,
        config.objects_per_image if stage.prompted else 1,
        stage.prompts,
        stage.augment,
        config.seed,
        None if store is None else store.read,
        Index(index, UNLABELLED) if learns_without_masks(config, stage) else None,
    )


def _levels(config: RunConfig) -> dict[str, Level]:
    """What the embedding is compared with, by names in batches: levels of all teachers.

    Each teacher's share is divided among its levels. A run that never distils projects nothing.
    """
    shares = {
        teacher_level(number, level_name(level)): share / len(teacher.distill_levels)
        for number, (teacher, share) in enumerate(
            zip(teacher_configs(config), teacher_shares(config), strict=True)
        )
        for level in teacher.distill_levels
    }
    blocks = projections(config) if any_distillation(config) else {}
    return {name: Level(blocks.get(name), share) for name, share in shares.items()}


def state_key(config: RunConfig, stage: Stage, index: Path, previous: Path | None) -> str:
    """Equal for two states that lead to the same weights."""
    teachers = teacher_configs(config) if stage.distillation else ()
    inputs = {
        "settings": canonical(config, stage),
        "index": file_digest(index),
        "previous": None if previous is None else file_digest(previous),
        "teachers": [identity(teacher) for teacher in teachers],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
