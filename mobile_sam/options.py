"""Groups of settings: what stands in braces within a run's JSON."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def is_safe_name(name: str) -> bool:
    """Whether `name` is one part of a path, stays in its directory, and is one word of a shell."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)) and ".." not in name


def _safe_name(name: str) -> str:
    if not is_safe_name(name):
        raise ValueError(
            f"{name!r} becomes a directory name: use letters, digits, '_', '-' and '.' only"
        )
    return name


def _plain_path(path: str) -> str:
    found = re.search(r"""^[-~#]|[\s"'`\\$&|;<>(){}\[\]*?]""", path)
    if found:
        raise ValueError(
            f"{path!r} becomes part of shell commands, where {found[0]!r} has a meaning of its own "
            "at that place; take a path without it"
        )
    return path


SafeName = Annotated[str, AfterValidator(_safe_name)]
PlainPath = Annotated[str, AfterValidator(_plain_path)]
Name = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]
Weight = Annotated[float, Field(ge=0)]
Clicks = Literal["truth", "teacher"]
Kept = Literal["last", "best"]
Protocol = Literal["box", "point", "center", "best_of_3", "clicks", "noc"]
Level = Literal["neck"] | Annotated[int, Field(ge=0)]


def _levels(value: object) -> object:
    """One order for equal lists, the neck before the blocks; a list of one is its only entry."""
    levels = list(value) if isinstance(value, list | tuple) else [value]
    numbers = sorted(level for level in levels if type(level) is int and level >= 0)
    ordered = [*(level for level in levels if level == "neck"), *numbers]
    if len(ordered) < len(levels):
        raise ValueError("give 'neck', the number of a block, or a list of these")
    if not levels or len(set(levels)) < len(levels):
        raise ValueError("a list names each level once, and at least one")
    return ordered[0] if len(ordered) == 1 else tuple(ordered)


Levels = Annotated[Level | tuple[Level, ...], BeforeValidator(_levels)]


def level_name(level: Level) -> str:
    """`neck` or `block_8`: a level in the feature store and in batches."""
    return level if level == "neck" else f"block_{level}"


def teacher_level(number: int, name: str) -> str:
    """`teacher1_block_8`: a level of one of several teachers in batches.

    number: 0 for the first teacher, whose levels keep their `name`; k + 1 for `more_teachers[k]`.
    """
    return f"teacher{number}_{name}" if number else name


def _protocols(value: tuple[Protocol, ...]) -> tuple[Protocol, ...]:
    if "box" not in value or len(set(value)) < len(value):
        raise ValueError("a list names each protocol once, and `box` among them")
    return tuple(name for name in get_args(Protocol) if name in value)


Protocols = Annotated[tuple[Protocol, ...], AfterValidator(_protocols)]


def _thresholds(value: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(value)) < len(value):
        raise ValueError("a list names each threshold once")
    return tuple(sorted(value))


Thresholds = Annotated[tuple[float, ...], AfterValidator(_thresholds)]
View = Literal["identity", "hflip"]


def _views(value: tuple[View, ...]) -> tuple[View, ...]:
    if "identity" not in value or len(set(value)) < len(value):
        raise ValueError("a list names each view once, and `identity` among them")
    return tuple(sorted(value, reverse=True))


Views = Annotated[tuple[View, ...], AfterValidator(_views)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LossWeights(Strict):
    focal: Weight = Field(20.0, description="focal loss on mask logits")
    dice: Weight = Field(1.0, description="dice loss on mask probabilities")
    iou: Weight = Field(1.0, description="squared error of the predicted IoU")
    boundary: Weight = Field(0.0, description="cross-entropy along the edge of the segment")


class PartialLossWeights(Strict):
    focal: Weight | None = Field(None, description="unset: the run's own weight")
    dice: Weight | None = Field(None, description="unset: the run's own weight")
    iou: Weight | None = Field(None, description="unset: the run's own weight")
    boundary: Weight | None = Field(None, description="unset: the run's own weight")


class Freeze(Strict):
    image_encoder: bool = Field(False, description="no training of the image encoder")
    prompt_encoder: bool = Field(False, description="no training of the prompt encoder")
    mask_decoder: bool = Field(False, description="no training of the mask decoder")


class Prompts(Strict):
    box: Weight = Field(0.5, description="share of box prompts")
    point: Weight = Field(0.5, description="share of single points, anywhere on the segment")
    interior_point: Weight = Field(
        0.0, description="share of single points where the segment is deepest"
    )
    points: Weight = Field(0.0, description="share of several points, positive and negative")
    mask: Weight = Field(
        0.0, description="share of poor earlier predictions, made from the truth, with box or point"
    )
    box_jitter: float = Field(
        0.1, ge=0, le=0.5, description="standard deviation of box corners, in box sides"
    )
    max_points: int = Field(
        4, ge=2, le=32, description="most positive points of `points`; the least are 2"
    )
    max_negative_points: int = Field(
        2, ge=0, le=32, description="most negative points of `points`, beside the segment"
    )

    @property
    def shares(self) -> dict[str, float]:
        """Relative weights of the kinds of prompts, by name."""
        return self.model_dump(include={"box", "point", "interior_point", "points", "mask"})


FEATURE_LOSSES = ("mse", "cosine", "attention", "relation")
PROMPT_LOSSES = ("mask_bce", "mask_dice", "mask_tokens", "predicted_iou")


class DistillLosses(Strict):
    mse: Weight = Field(1.0, description="mean squared error of features")
    cosine: Weight = Field(1.0, description="one minus the cosine of feature vectors, per pixel")
    attention: Weight = Field(
        0.0, description="squared distance of attention maps: where features are strong"
    )
    relation: Weight = Field(
        0.0, description="squared error of the cosines between all pairs of places"
    )
    mask_bce: Weight = Field(
        0.0,
        description="Kullback-Leibler divergence from the teacher's masks, per pixel, when both "
        "decoders answer the same prompts; all four masks of each prompt",
    )
    mask_dice: Weight = Field(0.0, description="soft Dice loss to the teacher's masks")
    mask_tokens: Weight = Field(0.0, description="mean squared error of the decoders' mask tokens")
    predicted_iou: Weight = Field(
        0.0, description="squared error of the predicted IoU, to the teacher's prediction"
    )

    @property
    def features(self) -> dict[str, float]:
        """Weights of the losses that compare features, those that count, by name."""
        return {name: getattr(self, name) for name in FEATURE_LOSSES if getattr(self, name)}

    @property
    def prompted(self) -> dict[str, float]:
        """Weights of the losses that compare answers to prompts, those that count, by name."""
        return {name: getattr(self, name) for name in PROMPT_LOSSES if getattr(self, name)}


class Teacher(Strict):
    """One entry of `more_teachers`."""

    checkpoint: str = Field(description="as `teacher_checkpoint`")
    model_type: str | None = Field(
        None, description="architecture; unset: that of the known name or of the run"
    )
    weight: float = Field(1.0, gt=0, description="relative to the run's first teacher, which has 1")
    feature_level: Levels = Field("neck", description="as `distill_feature_level`")


class Augment(Strict):
    flip: bool = Field(
        False,
        description="mirror left-right in half of the samples; with stored teacher features only "
        "where feature_views has hflip",
    )
    scale: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest relative change of size, uniformly drawn: 0.5 is from half to one and "
        "a half, cropped at random or padded; not with stored teacher features",
    )
    brightness: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="largest relative change of brightness, uniformly drawn; colours may change "
        "with stored teacher features too, which stay those of the unchanged image",
    )
    contrast: float = Field(
        0.0, ge=0, lt=1, description="largest relative change of contrast, uniformly drawn"
    )
    saturation: float = Field(
        0.0, ge=0, le=1, description="largest relative change of saturation, uniformly drawn"
    )
    hue: float = Field(
        0.0, ge=0, le=0.5, description="largest turn of hues, in colour circles, uniformly drawn"
    )


class Data(Strict):
    min_area: int = Field(0, ge=0, description="smallest segment in pixels of its image")
    max_objects_per_image: int | None = Field(
        None, ge=1, description="keep so many segments of an image, the largest; unset: all"
    )
    classes: tuple[Name, ...] | None = Field(
        None, description="keep segments of these classes; unset: of all"
    )
    ignore: tuple[Name, ...] = Field(
        (),
        description="leave out these classes, or these values of label maps, such as 255; what "
        "they cover counts neither as segment nor as background",
    )
    subset: str | None = Field(
        None, description="a text file with the ids of the images to use, one a line; unset: all"
    )
    val_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the training images that validate, drawn with `seed`, while "
        "`val_img_dir` and `val_mask_dir` are null",
    )
    max_broken: int = Field(
        0, ge=0, description="so many broken images and masks are left out; one more is an error"
    )
    version: str | None = Field(
        None,
        min_length=1,
        description="your name for the state of the files; where it is given, the index is made "
        "anew when it changes, and no file is looked at before; unset: when a file changes",
    )


class Synthetic(Strict):
    train: int = Field(600, ge=1, description="training images")
    val: int = Field(100, ge=1, description="validation images")
    size: int = Field(128, ge=32, description="side of an image in pixels")


class StageEntry(Strict):
    """One entry of `stage_schedule`."""

    start_epoch: int = Field(ge=0, description="first epoch, counted from 0")
    end_epoch: int = Field(ge=0, description="first epoch that is no longer in the stage")
    name: SafeName | None = Field(None, description="becomes part of `NN_name`")
    distillation: bool | None = Field(None, description="unset: `use_distill`")
    lambda_coef: Weight | None = Field(None, description="weight of distillation; unset: global")
    loss_weights: PartialLossWeights | None = Field(None, description="unset parts: global")
    learning_rate: float | None = Field(None, gt=0, description="unset: global")
    freeze: Freeze | None = Field(None, description="unset: global")
    prompts: Prompts | None = Field(None, description="unset: global")
    prompt_rounds: int | None = Field(None, ge=1, le=32, description="unset: global")
    augment: Augment | None = Field(None, description="unset: global")
    distill_losses: DistillLosses | None = Field(None, description="unset: global")
    clicks: Clicks | None = Field(None, description="unset: global")
    start_from: Kept | None = Field(None, description="unset: global")
