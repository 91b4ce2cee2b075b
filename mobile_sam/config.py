"""The settings of a run: names, types, defaults, units and meanings of every key.

This module is the single source of truth for configuration. The JSON Schema
(`configs/schema.json`) and the reference (`configs/README.md`) are generated from it. It imports
no torch, because Snakemake reads it each time it plans.
"""

import json
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mobile_sam.architectures import architectures, is_architecture
from mobile_sam.options import (
    Augment,
    Clicks,
    Data,
    DistillLosses,
    Freeze,
    Kept,
    Level,
    Levels,
    LossWeights,
    PlainPath,
    Prompts,
    Protocol,
    Protocols,
    SafeName,
    StageEntry,
    Strict,
    Synthetic,
    Teacher,
    Thresholds,
    Views,
)

# What a changed key makes Snakemake do again.
Affects = Literal[
    "place", "data", "start", "teacher", "training", "stage", "validation", "report", "execution"
]
AFFECTS: dict[Affects, str] = {
    "place": "nothing: results go elsewhere",
    "data": "index, features, training",
    "start": "training, from the first stage",
    "teacher": "features and the stages that distil",
    "training": "training, from the first stage",
    "stage": "the stages whose settings change, and later ones",
    "validation": "validation and the report",
    "report": "the report",
    "execution": "nothing: speed and safety only",
}


class UserError(ValueError):
    """Something the user can put right; the message is a sentence that says how."""


class ConfigError(UserError):
    """A setting that cannot be used; the message names file, key and value."""


def _key(default: Any, affects: Affects, description: str, **limits: Any) -> Any:
    extra: dict[str, JsonValue] = {"affects": affects}
    if isinstance(default, type) and issubclass(default, BaseModel):
        return Field(
            default_factory=default, description=description, json_schema_extra=extra, **limits
        )
    return Field(default, description=description, json_schema_extra=extra, **limits)


class RunConfig(Strict):
    """All settings of one run; each has a default but `run_name`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    schema_file: str | None = Field(
        None, alias="$schema", description="for editors", json_schema_extra={"affects": "place"}
    )
    project_name: SafeName = _key("mobile_sam", "place", "runs of one project share features")
    run_name: SafeName = _key("", "place", "directory of the run; unset: the file's name")
    output_dir: PlainPath = _key("results", "place", "root of all results")

    train_img_dir: str | None = _key("data/train/image", "data", "training images")
    train_mask_dir: str | None = _key(
        "data/train/mask", "data", "training masks: a directory or a COCO file"
    )
    val_img_dir: str | None = _key(
        "data/val/image", "data", "validation images; null with `val_mask_dir`: some of training"
    )
    val_mask_dir: str | None = _key("data/val/mask", "data", "validation masks")
    unlabelled_img_dir: str | None = _key(
        None, "data", "images without masks, for the stages that distil"
    )
    data: Data = _key(Data, "data", "which images and segments are used")
    synthetic: Synthetic | None = _key(
        None, "data", "scenes drawn by the workflow, used while all four directories are null"
    )

    model_type: str = _key("vit_t", "training", "student architecture, by name")
    checkpoint: str | None = _key(
        "mobile_sam",
        "start",
        "start weights: a path, a known name, `imagenet` (timm's encoder), or null for random",
    )
    decoder_from_teacher: bool = _key(
        False, "start", "prompt encoder and mask decoder start as the teacher's"
    )
    iou_head_depth: int = _key(3, "training", "layers of the IoU head", ge=1)
    iou_head_hidden_dim: int = _key(256, "training", "width of the IoU head", ge=1)

    teacher_checkpoint: str | None = _key(
        None,
        "teacher",
        "teacher weights: a path, a known name, `run:<name>` for the result of another run, "
        "`random` for a trial without weights, or null",
    )
    teacher_model_type: str | None = _key(
        None, "teacher", "teacher architecture; unset: that of the known name or of the run"
    )
    more_teachers: tuple[Teacher, ...] = _key(
        (), "teacher", "teachers beside the first; distillation is the weighted mean; see below"
    )
    train_img_dir_teacher_features: PlainPath | None = _key(
        None, "teacher", "Zarr store of teacher features; unset: beside the index"
    )
    teacher: Literal["stored", "online"] = _key(
        "stored", "teacher", "features are computed once and stored, or anew for each batch"
    )
    distill_feature_level: Levels = _key(
        "neck",
        "teacher",
        "`neck`, the final embedding, the number of a teacher block, or a list of these",
    )
    feature_dtype: Literal["float16", "int8"] = _key(
        "float16", "teacher", "of stored features; int8 has a scale for each channel and image"
    )
    feature_views: Views = _key(
        ("identity",),
        "teacher",
        "what of an image is stored: `identity`, and `hflip`, the image mirrored left-right",
    )
    distill_losses: DistillLosses = _key(DistillLosses, "stage", "weights within distillation")
    use_distill: bool = _key(False, "stage", "distil where the schedule does not say")
    lambda_coef: float = _key(1.0, "stage", "weight of the distillation term", ge=0)

    num_epochs: int = _key(10, "stage", "epochs of the whole run", ge=1)
    stage_schedule: tuple[StageEntry, ...] = _key((), "stage", "stages by epochs; see below")
    loss_weights: LossWeights = _key(LossWeights, "stage", "weights of the supervised losses")
    learning_rate: float = _key(1e-4, "stage", "peak learning rate of AdamW", gt=0)
    freeze: Freeze = _key(Freeze, "stage", "parts that are not trained")
    prompts: Prompts = _key(Prompts, "stage", "prompts drawn in training")
    prompt_rounds: int = _key(
        1,
        "stage",
        "decoder passes of a step; each after the first sees a click in the largest error, and "
        "the prediction before it",
        ge=1,
        le=32,
    )

    clicks: Clicks = _key(
        "truth",
        "stage",
        "where the clicks of `prompt_rounds` correct the student: where it differs from the truth, "
        "or from the teacher",
    )
    start_from: Kept = _key(
        "last", "stage", "checkpoint of the stage before that a stage starts from"
    )

    multimask: bool = _key(
        True, "training", "single points get three masks too, of which the best learns"
    )
    img_size: int = _key(
        1024, "training", "pixels of the longest side, a multiple of 64", ge=64, le=4096
    )
    batch_size: int = _key(8, "training", "images per step, over all devices", ge=1)
    gradient_accumulation: int = _key(1, "training", "batches per optimiser step", ge=1)
    objects_per_image: int = _key(4, "training", "segments prompted per encoded image", ge=1)
    augment: Augment = _key(Augment, "stage", "random changes of training images")
    weight_decay: float = _key(0.05, "training", "of AdamW, on weight matrices", ge=0)
    encoder_lr_scale: float = _key(
        1.0, "training", "learning rate of the image encoder, relative", ge=0
    )
    layer_decay: float = _key(
        1.0,
        "training",
        "learning rate of each encoder block, relative to the block after it",
        gt=0,
        le=1,
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = _key(
        "cosine", "training", "course of the learning rate after the warm-up"
    )
    lr_scheduler_span: Literal["stage", "run"] = _key(
        "stage", "training", "what one course of the scheduler covers"
    )
    warmup_steps: float = _key(
        0.08,
        "training",
        "linear warm-up: from 1 on in optimiser steps, below 1 as a share of the span",
        ge=0,
    )
    gradient_clip: float = _key(1.0, "training", "largest gradient norm; 0 does not clip", ge=0)
    ema_decay: float = _key(
        0.0,
        "training",
        "of the moving average of weights that is validated and exported, per step; 0: none",
        ge=0,
        lt=1,
    )
    freeze_batchnorm: bool | None = _key(
        None,
        "training",
        "keep BatchNorm statistics; unset: below 8 images a batch, from given weights",
    )
    cache_embeddings: bool = _key(
        True,
        "training",
        "compute what a frozen image encoder gives once: 2 MiB an image on disk at 1024 px",
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"] = _key(
        "auto",
        "training",
        "`auto`: bf16-mixed on a GPU that has it, else 32-true; 64-true is for comparisons",
    )
    compile: bool = _key(
        False, "training", "torch.compile of the student's encoder; the log says what it gains"
    )
    prompts_per_pass: int = _key(
        32,
        "training",
        "prompts that the decoder keeps for the gradient at a time; more are decoded twice",
        ge=1,
    )
    seed: int = _key(0, "training", "of all that is random", ge=0, lt=2**31)
    early_stopping: int | None = _key(
        None, "training", "end a stage after so many epochs without a better IoU", ge=1
    )
    val_images: int = _key(
        32, "training", "validation images looked at after each epoch; 0 for none", ge=0
    )

    mask_threshold: float = _key(0.0, "validation", "binarises mask logits")
    protocols: Protocols = _key(
        get_args(Protocol),
        "validation",
        "how each segment is prompted: by its box, its deepest point, the centre of its box, with "
        "three masks, by 3 and 5 corrective clicks, by up to 20 clicks until IoU is 0.9",
    )
    thresholds: Thresholds = _key(
        (-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
        "validation",
        "other thresholds of mask logits that are tried, for the report's sweep",
    )
    automatic_images: int = _key(
        0, "validation", "validation images segmented without prompts; 0 for none", ge=0
    )
    automatic_points: int = _key(
        32, "validation", "points along each side of the grid that segments without prompts", ge=1
    )
    detections: str | None = _key(
        None,
        "validation",
        "a detector's boxes on the validation images, as JSON of COCO's results; gives AP",
    )
    compare: tuple[str, ...] = _key(
        (),
        "validation",
        "other weights to measure beside: paths, known names, or `run:<name>`",
    )
    validate_jobs: int = _key(1, "validation", "jobs that share each validation", ge=1)
    use_checkpoint: Kept = _key(
        "last", "validation", "checkpoint of the last stage that is exported"
    )
    cost_repeats: int = _key(
        10, "report", "timed runs of each model for the report; 0: no cost is measured", ge=0
    )
    report_examples: int = _key(6, "report", "images shown in the report", ge=0)

    recompute_encoder: bool = _key(
        False,
        "execution",
        "compute the encoder again for its gradient: less memory, more time, equal weights",
    )
    num_workers: int = _key(0, "execution", "processes that read images", ge=0)
    devices: int = _key(
        1, "execution", "GPUs, or processes on CPUs, of one training job and node", ge=1
    )
    num_nodes: int = _key(1, "execution", "machines of one training job", ge=1)
    save_every_minutes: float = _key(
        10.0, "execution", "between saves of the resume state; 0 saves after every step", ge=0
    )
    extract_jobs: int = _key(1, "execution", "jobs that share the extraction of features", ge=1)

    @property
    def distill_levels(self) -> tuple[Level, ...]:
        """The levels to distil from, the neck before the blocks."""
        level = self.distill_feature_level
        return level if isinstance(level, tuple) else (level,)

    @property
    def keeps_batchnorm(self) -> bool:
        """Whether BatchNorm statistics stay: few images estimate them badly."""
        if self.freeze_batchnorm is None:
            return self.batch_size < 8 and self.checkpoint is not None
        return self.freeze_batchnorm


DIRECTORY_KEYS = ("train_img_dir", "train_mask_dir", "val_img_dir", "val_mask_dir")

# Keys that say which data and where; given on the command line they hold for teacher runs too.
SHARED_KEYS = frozenset(
    {
        *DIRECTORY_KEYS,
        "unlabelled_img_dir",
        "data",
        "img_size",
        "project_name",
        "output_dir",
        "seed",
        "num_workers",
    }
)


def affects(key: str) -> Affects:
    """What a change of `key` makes Snakemake do again."""
    extra = RunConfig.model_fields[key].json_schema_extra
    value = extra["affects"] if isinstance(extra, dict) else None
    if value not in get_args(Affects):
        raise KeyError(key)
    return value  # type: ignore[return-value]


def parse_config(settings: dict[str, Any], source: str) -> RunConfig:
    """Validate `settings`; `source` names where they come from in error messages.

    Raises ConfigError that lists every wrong key with its value.
    """
    try:
        config = RunConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{source}: {describe_errors(error)}") from None
    _check_combination(config, source)
    return config


def describe_errors(error: ValidationError) -> str:
    """One line for all errors: key, what is wrong, the value given."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if not str(part).startswith("function-"))
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r}; the keys are listed in configs/README.md")
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {message} (it is {json.dumps(item['input'], default=str)})")
    return "; ".join(lines)


def _check_combination(config: RunConfig, source: str) -> None:
    if config.img_size % 64:
        raise ConfigError(
            f"{source}: img_size: {config.img_size} is not a multiple of 64; "
            f"take {round(config.img_size / 64) * 64 or 64}"
        )
    names = {key: getattr(config, key) for key in ("model_type", "teacher_model_type")}
    for k, teacher in enumerate(config.more_teachers):
        names[f"more_teachers[{k}].model_type"] = teacher.model_type
    for key, name in names.items():
        if name is not None and not is_architecture(name):
            known = ", ".join([*sorted(architectures()), "timm/<name>"])
            raise ConfigError(f"{source}: {key}: there is no {name!r}; there are {known}")
    given = [getattr(config, key) is not None for key in DIRECTORY_KEYS]
    if given not in ([True] * 4, [True, True, False, False], [False] * 4):
        raise ConfigError(
            f"{source}: {', '.join(DIRECTORY_KEYS)} go together: set all four, or the two of "
            "training with `data.val_fraction`, or none with `synthetic`"
        )
    if not any(given) and config.synthetic is None:
        raise ConfigError(f"{source}: train_img_dir is null, and there is no `synthetic` data")
    if config.early_stopping is not None and config.val_images == 0:
        raise ConfigError(f"{source}: early_stopping: {config.early_stopping} needs val_images > 0")
    if config.decoder_from_teacher and config.teacher_checkpoint is None:
        raise ConfigError(f"{source}: decoder_from_teacher: true needs a teacher_checkpoint")
    if config.more_teachers and config.teacher_checkpoint is None:
        raise ConfigError(f"{source}: more_teachers: there is no first; set teacher_checkpoint")
    if config.teacher_checkpoint == "random" and config.teacher_model_type is None:
        raise ConfigError(f"{source}: teacher_checkpoint 'random' needs a teacher_model_type")
