"""Setup of a stage: its module, its samples, and the identity of its inputs."""

import hashlib
import json
from pathlib import Path

import torch

from mobile_sam.config.architectures import feature_channels
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import any_distillation, canonical, learns_without_masks
from mobile_sam.config.sections import level_name, teacher_level
from mobile_sam.config.stage import Stage
from mobile_sam.config.teachers import projections, teacher_configs, teacher_shares
from mobile_sam.data.index.table import UNLABELLED, Index, check_shapes
from mobile_sam.data.sampling.dataset import TrainingSet
from mobile_sam.features.identity import Identity, identity
from mobile_sam.models.student_teacher import start_student
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import file_digest
from mobile_sam.training.step import TrainingModule, stage_objective
from mobile_sam.training.teacher import FeatureProjections, Level, stored_features, teacher_decoders


def new_training_module(config: RunConfig, stage: Stage, device: torch.device) -> TrainingModule:
    """Return the module of a stage before its first step.

    Its parameters have the same shapes in all stages, so the whole state carries over.
    """
    student = feature_channels(config.model_type, "neck")
    return TrainingModule(
        start_student(config),
        FeatureProjections(student, _levels(config), config.seed),
        stage_objective(config, stage),
        teacher_decoders(config, device) if stage.prompt_distillation else (),
    )


def training_set(config: RunConfig, stage: Stage) -> TrainingSet:
    """Return the samples of a stage, with the features that it reads."""
    store, index = stored_features(config, stage), RunPaths(config).index
    check_shapes(index, config.img_size)
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
    """Return the levels of all teachers that the embedding is compared with, by names in batches.

    Each teacher's share is divided among its levels. A run without distillation has no projections.
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


def _feature_identity(teacher: RunConfig) -> Identity:
    """Return the part of the identity of a teacher's features that weights depend on."""
    fields = {key: value for key, value in identity(teacher).items() if key != "views"}
    return fields | ({"dtype": None} if teacher.teacher_features == "online" else {})


def state_key(config: RunConfig, stage: Stage, index: Path, previous: Path | None) -> str:
    """Return a digest that is equal for two states that lead to the same weights."""
    teachers = teacher_configs(config) if stage.distillation else ()
    inputs = {
        "settings": canonical(config, stage),
        "index": file_digest(index),
        "previous": None if previous is None else file_digest(previous),
        "teachers": [_feature_identity(teacher) for teacher in teachers],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
