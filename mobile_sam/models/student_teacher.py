"""Models of a run: the student before training, and the first teacher."""

import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.config.teachers import random_seed
from mobile_sam.models.build import build_sam_model, load_imagenet
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.safe_load import load_state_file
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import load_state
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError


def random_student(config: RunConfig) -> Sam:
    """Return a student with random weights, which depend on `seed` only."""
    return build_sam_model(
        config.model_type,
        config.img_size,
        config.iou_head_depth,
        config.iou_head_hidden_dim,
        config.seed,
    )


def start_student(config: RunConfig) -> Sam:
    """Return the student before the first step, with random weights or those of `checkpoint`.

    With `decoder_from_teacher`, prompt encoder and mask decoder are copied from the teacher.
    """
    student = random_student(config)
    if config.checkpoint == "imagenet":
        load_imagenet(student, config.model_type)
    path = RunPaths(config).start_weights
    if path is not None:
        if path == RunPaths(config).shape_weights and not path.is_file():
            raise ConfigError(
                f"checkpoint: {config.checkpoint!r}: {path} is missing; make it by `python -m "
                f"mobile_sam shapes --config {RunPaths(config).settings}`"
            )
        load_state(student, load_state_file(path), str(path))
    if config.decoder_from_teacher:
        teacher = load_teacher(config)
        for part in ("prompt_encoder", "mask_decoder"):
            _copy_part(teacher, student, part)
    return student


def load_teacher(config: RunConfig) -> Sam:
    """Load the first teacher in eval mode, at the student's image size; ConfigError without one."""
    if config.teacher_checkpoint is None or config.teacher_model_type is None:
        raise ConfigError(f"run {config.run_name!r}: teacher_checkpoint is null; set it")
    path = RunPaths(config).teacher_weights
    if path is None:
        seed = random_seed(config)
        model = build_sam_model(config.teacher_model_type, config.img_size, seed=seed)
    else:
        model = load_any(path, config.img_size, config.teacher_model_type)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _copy_part(teacher: Sam, student: Sam, part: str) -> None:
    source, target = getattr(teacher, part).state_dict(), getattr(student, part).state_dict()
    differing = sorted(
        key
        for key in set(source) | set(target)
        if key not in source or key not in target or source[key].shape != target[key].shape
    )
    if differing:
        raise ConfigError(
            f"decoder_from_teacher: the student's {part} does not have the shapes of the teacher's "
            f"({', '.join(differing[:4])}); give both the same embed_dim, iou_head_depth and "
            "iou_head_hidden_dim"
        )
    getattr(student, part).load_state_dict(source)
