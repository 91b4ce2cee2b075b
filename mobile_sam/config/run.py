"""Settings of a run: name, type, default, unit and meaning of each key.

This module is the single source of truth for configuration. The JSON Schema
(`configs/schema.json`) and the reference (`configs/README.md`) are generated from it. It imports
no torch, because Snakemake reads it each time it plans.
"""

from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, PrivateAttr

from mobile_sam.config.keys import Affects, key_metadata, run_key
from mobile_sam.config.sections import (
    CheckpointKind,
    Data,
    Level,
    Levels,
    PlainPath,
    Protocol,
    Protocols,
    SafeName,
    SelectionMetric,
    Synthetic,
    Teacher,
    Thresholds,
    Views,
)
from mobile_sam.config.stage import StageEntry, StageSettings
from mobile_sam.config.sweep import Sweep, SweepStop


class RunConfig(StageSettings):
    """Settings of one run; all but `run_name` have a default."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    schema_file: str | None = Field(
        None,
        alias="$schema",
        description="JSON Schema of this file, for editors",
        json_schema_extra={"affects": "place"},
    )
    project_name: SafeName = run_key(
        "mobile_sam", "place", "name of the project; its runs share the index and teacher features"
    )
    run_name: SafeName = run_key(
        "", "place", "name of the run and of its directory; unset: the name of the file"
    )
    output_dir: PlainPath = run_key("results", "place", "root directory of all results")

    train_img_dir: str | None = run_key("data/train/image", "data", "training images")
    train_mask_dir: str | None = run_key(
        "data/train/mask", "data", "training masks: a directory or a COCO file"
    )
    val_img_dir: str | None = run_key(
        "data/val/image",
        "data",
        "validation images; null together with `val_mask_dir`: a share of the training images",
    )
    val_mask_dir: str | None = run_key("data/val/mask", "data", "validation masks")
    unlabelled_img_dir: str | None = run_key(
        None, "data", "images without masks; stages that distil train on them too"
    )
    data: Data = run_key(Data, "data", "which images and objects are used, and how files are read")
    synthetic: Synthetic | None = run_key(
        None, "data", "synthetic scenes, drawn and used if all four directories are null"
    )

    sweep: Sweep | None = run_key(
        None,
        "variants",
        "values of keys; the run stands for its variants, one for each combination of values "
        "([experiments](../docs/experiments.md))",
    )
    sweep_stop: SweepStop | None = run_key(
        None, "variants", "train only the best combinations of `sweep` to the end"
    )
    replicates: int = run_key(
        1, "variants", "number of variants of each combination, with `seed`, `seed` + 1, ...", ge=1
    )

    folds: int | None = run_key(
        None,
        "variants",
        "number of parts of the training images, by image or `data.groups`; a variant for each "
        "part validates on it and trains on the others",
        ge=2,
    )

    model_type: str = run_key("vit_t", "training", "architecture of the student")
    checkpoint: str | None = run_key(
        "mobile_sam",
        "start",
        "initial weights: a path, a known name, `run:<name>` for the final weights of another run, "
        "`run:<name>:<stage>` for those after one of its stages, "
        "`imagenet` (weights of a timm encoder), `shapes` "
        "(random weights whose decoder has learned what a box means; `shapes:<steps>`), or null "
        "for random weights",
    )
    decoder_from_teacher: bool = run_key(
        False, "start", "initialise prompt encoder and mask decoder with the teacher's weights"
    )
    iou_head_depth: int = run_key(3, "training", "layers of the IoU head of the mask decoder", ge=1)
    iou_head_hidden_dim: int = run_key(
        256, "training", "width of the hidden layers of the IoU head", ge=1
    )

    teacher_checkpoint: str | None = run_key(
        None,
        "teacher",
        "teacher weights: a path, a known name, `run:<name>` for the weights of another run, "
        "`random` for tests without weights, or null for no teacher",
    )
    teacher_model_type: str | None = run_key(
        None, "teacher", "architecture of the teacher; unset: given by the known name or the run"
    )
    extra_teachers: tuple[Teacher, ...] = run_key(
        (),
        "teacher",
        "further teachers; the distillation loss is the weighted mean over all teachers; see below",
    )
    train_img_dir_teacher_features: PlainPath | None = run_key(
        None, "place", "Zarr store of teacher features; unset: next to the index"
    )
    teacher_features: Literal["stored", "online"] = run_key(
        "stored",
        "teacher",
        "`stored`: compute teacher features once and store them; `online`: compute them for "
        "each batch",
    )
    distill_feature_level: Levels = run_key(
        "neck",
        "teacher",
        "level of the teacher's features: `neck` (the final embedding), the number of a block, "
        "or a list of these",
    )
    feature_dtype: Literal["float16", "int8"] = run_key(
        "float16",
        "teacher",
        "data type of stored features; `int8` stores a scale for each channel and image",
    )
    feature_views: Views = run_key(
        ("identity",),
        "features",
        "views of each image whose features are stored: `identity`, and `hflip` (mirrored "
        "left-right)",
    )
    use_distill: bool = run_key(
        False, "stage", "distil in stages whose entry does not set `distillation`"
    )

    num_epochs: int = run_key(10, "stage", "number of epochs of the run", ge=1)
    stage_schedule: tuple[StageEntry, ...] = run_key(
        (), "stage", "stages of the run and their settings; see below"
    )
    multimask: bool = run_key(
        True, "training", "predict three masks for single points, and train the best of them"
    )
    img_size: int = run_key(
        1024,
        "training",
        "longest side of the resized image in pixels, a multiple of 64",
        ge=64,
        le=4096,
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = run_key(
        8,
        "training",
        "images per step over all devices; `auto`: the largest power of two up to 64 that fits "
        "into memory according to `estimate`, chosen once by the first stage",
    )
    gradient_accumulation: int = run_key(1, "training", "batches per optimiser step", ge=1)
    labelled_fraction: float | None = run_key(
        None,
        "stage",
        "share of images with masks in each batch, in stages that also train on "
        "`unlabelled_img_dir`; unset: their share among all images",
        gt=0,
        lt=1,
    )
    objects_per_image: int = run_key(4, "training", "objects prompted per encoded image", ge=1)
    weight_decay: float = run_key(
        0.05, "training", "weight decay of AdamW, applied to weight matrices only", ge=0
    )
    encoder_lr_scale: float = run_key(
        1.0, "training", "factor on the learning rate of the image encoder", ge=0
    )
    layer_decay: float = run_key(
        1.0,
        "training",
        "factor on the learning rate of each encoder block, relative to the next block",
        gt=0,
        le=1,
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = run_key(
        "cosine", "training", "learning rate schedule after the warm-up"
    )
    lr_scheduler_span: Literal["stage", "run"] = run_key(
        "stage", "training", "span of one learning rate schedule: each stage, or the whole run"
    )
    warmup_fraction: float | None = run_key(
        0.08,
        "training",
        "length of the linear warm-up as a fraction of `lr_scheduler_span`; null if "
        "`warmup_steps` is set",
        ge=0,
        lt=1,
    )
    warmup_steps: int | None = run_key(
        None,
        "training",
        "length of the linear warm-up in optimiser steps, instead of `warmup_fraction`; 0 "
        "disables the warm-up",
        ge=0,
    )
    gradient_clip: float = run_key(
        1.0, "training", "maximum gradient norm; 0 disables clipping", ge=0
    )
    ema_decay: float = run_key(
        0.0,
        "training",
        "EMA decay per optimiser step; the averaged weights are validated and exported; 0 "
        "disables the average",
        ge=0,
        lt=1,
    )
    freeze_batchnorm: bool | None = run_key(
        None,
        "training",
        "keep the BatchNorm statistics of the initial weights; unset: true if training starts "
        "from weights and fewer than 8 images would contribute (per device, or over all devices "
        "with `sync_batchnorm`)",
    )
    sync_batchnorm: bool = run_key(
        False,
        "training",
        "compute BatchNorm statistics over the images of all GPUs instead of each GPU's own",
    )
    cache_embeddings: bool = run_key(
        True,
        "training",
        "compute the embeddings of a frozen image encoder once and store them: 2 MiB per image "
        "at 1024 px",
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"] = run_key(
        "auto",
        "training",
        "floating-point precision of training; `auto`: bf16-mixed on GPUs of compute capability "
        "8.0 or higher, 16-mixed on 7.x, otherwise 32-true; 64-true is for comparisons",
    )
    compile: bool = run_key(
        False,
        "training",
        "compile the student's encoder with torch.compile; the log reports the speed-up",
    )
    decoder_chunk_size: int = run_key(
        32,
        "training",
        "prompts whose decoder activations are kept at a time; if there are more, each is "
        "decoded twice, which saves memory",
        ge=1,
    )
    seed: int = run_key(
        0,
        "training",
        "random seed of weights, batches, prompts and augmentation; `data.split_seed` chooses "
        "the validation images",
        ge=0,
        lt=2**31,
    )
    early_stopping: int | None = run_key(
        None,
        "training",
        "end a stage after this many epochs without a better validation IoU; null: never",
        ge=1,
    )
    val_images: int = run_key(
        32,
        "training",
        "number of validation images measured after each epoch, a random sample by `seed`; 0 "
        "disables this",
        ge=0,
    )
    selection_metric: SelectionMetric = run_key(
        "mean",
        "training",
        "validation IoU that selects the best epoch: with `box` prompts, with `point` prompts, "
        "the `mean` of both, or after 3 corrective `clicks`",
    )

    mask_threshold: float = run_key(
        0.0, "validation", "threshold that turns mask logits into masks"
    )
    protocols: Protocols = run_key(
        get_args(Protocol),
        "validation",
        "prompts of each object in validation: its box, its deepest point, the centre of its "
        "box, the best of three masks, 3 and 5 corrective clicks (`clicks`), and up to 20 "
        "clicks until IoU is 0.9 (`noc`)",
    )
    click_objects: int | None = run_key(
        3000,
        "validation",
        "number of validation objects with simulated clicks (`clicks`, `noc`): a random sample if "
        "there are more, the same for all models; null: all",
        ge=1,
    )
    thresholds: Thresholds = run_key(
        (-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0),
        "validation",
        "further thresholds of mask logits, for the threshold plot of the report",
    )
    automatic_images: int = run_key(
        0,
        "validation",
        "number of validation images segmented without prompts; 0 disables this",
        ge=0,
    )
    automatic_points: int = run_key(
        32,
        "validation",
        "grid points along each side of the image for segmentation without prompts",
        ge=1,
    )
    detections: str | None = run_key(
        None,
        "validation",
        "boxes of a detector on the validation images, as COCO results JSON; adds AP to the report",
    )
    compare: tuple[str, ...] = run_key(
        (),
        "validation",
        "other weights to measure for comparison: paths, known names, or `run:<name>`",
    )
    validate_jobs: int = run_key(1, "validation", "number of jobs that share each validation", ge=1)
    use_checkpoint: CheckpointKind = run_key(
        "last", "validation", "checkpoint of the last stage that is exported"
    )
    benchmark_repeats: int = run_key(
        10, "report", "timed passes of each model for the cost table; 0 measures no cost", ge=0
    )
    report_examples: int = run_key(
        6, "report", "number of images in each gallery of the report", ge=0
    )

    recompute_encoder: bool = run_key(
        False,
        "execution",
        "recompute encoder activations in the backward pass: less memory, more time, the same "
        "weights",
    )
    num_workers: Annotated[int, Field(ge=0)] | Literal["auto"] = run_key(
        "auto",
        "execution",
        "number of processes that read images; `auto`: with a GPU, the number of CPUs of the job; "
        "without one, 0",
    )
    devices: int = run_key(
        1, "execution", "GPUs (or CPU processes) per node of a training job", ge=1
    )
    num_nodes: int = run_key(1, "execution", "nodes of a training job", ge=1)
    save_every_minutes: float = run_key(
        10.0,
        "execution",
        "minutes between saves of the resume state; 0 saves after every step",
        ge=0,
    )
    extract_jobs: int | None = run_key(
        None,
        "execution",
        "number of jobs that share the extraction of features; unset: one per GPU of this "
        "machine, one on a cluster",
        ge=1,
    )

    _chosen_batch_size: int | None = PrivateAttr(None)

    @property
    def distill_levels(self) -> tuple[Level, ...]:
        """Levels to distil from, the neck before the blocks."""
        level = self.distill_feature_level
        return level if isinstance(level, tuple) else (level,)

    @property
    def batchnorm_images(self) -> int:
        """Number of images in BatchNorm statistics of a full batch; the minimum over devices."""
        parts = 1 if self.sync_batchnorm else self.devices * self.num_nodes
        return self.images_per_batch // parts

    @property
    def images_per_batch(self) -> int:
        """Batch size, as set, or as chosen for `auto`."""
        size = self._chosen_batch_size if self.batch_size == "auto" else self.batch_size
        if size is None:
            raise ValueError("batch_size is auto, and no size has been chosen yet")
        return size

    def with_batch_size(self, images: int) -> "RunConfig":
        """Return the settings with the batch size that was chosen for `auto`."""
        copy = self.model_copy()
        copy._chosen_batch_size = images
        return copy

    def steps_of_warmup(self, span: int) -> int:
        """Return the number of warm-up steps among `span` optimiser steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round((self.warmup_fraction or 0) * span)

    @property
    def keeps_batchnorm(self) -> bool:
        """Return whether BatchNorm statistics are kept, because few images estimate them badly."""
        if self.freeze_batchnorm is None:
            return self.batchnorm_images < 8 and self.checkpoint is not None
        return self.freeze_batchnorm


DIRECTORY_KEYS = ("train_img_dir", "train_mask_dir", "val_img_dir", "val_mask_dir")

# Keys of data and paths; given on the command line, they also apply to teacher runs.
SHARED_KEYS = frozenset(
    {
        *DIRECTORY_KEYS,
        "unlabelled_img_dir",
        "data",
        "synthetic",
        "img_size",
        "project_name",
        "output_dir",
        "seed",
        "num_workers",
    }
)


def affects(name: str) -> Affects:
    """Return the group of a key, by the jobs that a change of it runs again (`AFFECTS`)."""
    group: Affects = key_metadata(RunConfig, name, "affects")
    return group
