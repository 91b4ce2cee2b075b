"""Groups of settings, which are objects within a run's JSON."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from mobile_sam.config.keys import Strict, Weight


def clean_name(text: str) -> str:
    """Return `text` as one part of a path, with `_` for all but letters, digits, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "x"


def is_safe_name(name: str) -> bool:
    """Return whether `name` is a single part of a path and a single word of a shell."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)) and ".." not in name


def is_groups_file(groups: str) -> bool:
    """Return whether `data.groups` is the path of a CSV file; otherwise a regular expression."""
    return groups.lower().endswith(".csv")


def _safe_name(name: str) -> str:
    if not is_safe_name(name):
        raise ValueError(
            f"{name!r} becomes a directory name: use letters, digits, '_', '-' and '.' only"
        )
    return name


def _plain_path(path: str) -> str:
    match = re.search(r"""^[-~#]|[\s"'`\\$&|;<>(){}\[\]*?]""", path)
    if match:
        raise ValueError(
            f"{path!r} becomes part of shell commands, where {match[0]!r} has a special meaning at "
            "this position; give a path without it"
        )
    return path


SafeName = Annotated[str, AfterValidator(_safe_name)]
PlainPath = Annotated[str, AfterValidator(_plain_path)]
Name = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]
SceneObjects = Literal["shapes", "cells"]
ClickTarget = Literal["truth", "teacher"]
CheckpointKind = Literal["last", "best"]
SelectionMetric = Literal["box", "point", "mean", "clicks"]
Protocol = Literal["box", "point", "center", "best_of_3", "clicks", "noc"]
Level = Literal["neck"] | Annotated[int, Field(ge=0)]


def _levels(value: object) -> object:
    """Sort levels, the neck before the blocks; a list of one becomes its entry."""
    levels = list(value) if isinstance(value, list | tuple) else [value]
    numbers = sorted(level for level in levels if type(level) is int and level >= 0)
    ordered = [*(level for level in levels if level == "neck"), *numbers]
    if len(ordered) < len(levels):
        raise ValueError("give 'neck', the number of a block, or a list of these")
    if not levels or len(set(levels)) < len(levels):
        raise ValueError("list each level once, and at least one level")
    return ordered[0] if len(ordered) == 1 else tuple(ordered)


Levels = Annotated[Level | tuple[Level, ...], BeforeValidator(_levels)]


def level_name(level: Level) -> str:
    """Return the name of a level in the feature store and in batches: `neck` or `block_8`."""
    return level if level == "neck" else f"block_{level}"


def teacher_level(number: int, name: str) -> str:
    """Return the name in batches of a teacher's level, such as `teacher1_block_8`.

    number: 0 for the first teacher, whose levels keep their `name`; k + 1 for `extra_teachers[k]`.
    """
    return f"teacher{number}_{name}" if number else name


def _protocols(value: tuple[Protocol, ...]) -> tuple[Protocol, ...]:
    if "box" not in value or len(set(value)) < len(value):
        raise ValueError("list each protocol once, and include `box`")
    return tuple(name for name in get_args(Protocol) if name in value)


Protocols = Annotated[tuple[Protocol, ...], AfterValidator(_protocols)]


def _thresholds(value: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(value)) < len(value):
        raise ValueError("list each threshold once")
    return tuple(sorted(value))


Thresholds = Annotated[tuple[float, ...], AfterValidator(_thresholds)]
View = Literal["identity", "hflip"]


def _views(value: tuple[View, ...]) -> tuple[View, ...]:
    if "identity" not in value or len(set(value)) < len(value):
        raise ValueError("list each view once, and include `identity`")
    return tuple(sorted(value, reverse=True))


Views = Annotated[tuple[View, ...], AfterValidator(_views)]


class Freeze(Strict):
    image_encoder: bool = Field(False, description="do not train the image encoder")
    prompt_encoder: bool = Field(False, description="do not train the prompt encoder")
    mask_decoder: bool = Field(False, description="do not train the mask decoder")


class Prompts(Strict):
    box: Weight = Field(0.5, description="share of box prompts")
    point: Weight = Field(0.5, description="share of single points, anywhere on the object")
    interior_point: Weight = Field(
        0.0, description="share of single points at the most interior point of the object"
    )
    points: Weight = Field(
        0.0, description="share of prompts of several points, positive and negative"
    )
    mask: Weight = Field(
        0.0,
        description=(
            "share of mask prompts (perturbed ground truth, like a poor earlier "
            "prediction), with a box or point"
        ),
    )
    box_jitter: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description=(
            "standard deviation of the noise on box corners, relative to the sides of the box"
        ),
    )
    max_points: int = Field(
        4,
        ge=2,
        le=32,
        description="maximum number of positive points of `points`; the minimum is 2",
    )
    max_negative_points: int = Field(
        2, ge=0, le=32, description="maximum number of negative points of `points`, near the object"
    )

    @property
    def shares(self) -> dict[str, float]:
        """Relative weights of the kinds of prompts, by name."""
        return self.model_dump(include={"box", "point", "interior_point", "points", "mask"})


class Teacher(Strict):
    """Entry of `extra_teachers`."""

    checkpoint: str = Field(description="weights of the teacher, as in `teacher_checkpoint`")
    model_type: str | None = Field(
        None, description="architecture; unset: given by the known name or the run"
    )
    weight: float = Field(
        1.0, gt=0, description="weight relative to the first teacher, whose weight is 1"
    )
    feature_level: Levels = Field(
        "neck", description="level of the features, as in `distill_feature_level`"
    )


class Augment(Strict):
    flip: bool = Field(
        False,
        description=(
            "mirror half of the samples left-right; with stored teacher features, "
            "`feature_views` must contain `hflip`"
        ),
    )
    scale: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "maximum relative change of size, drawn uniformly: 0.5 scales by 0.5 to 1.5, "
            "then crops at random or pads; not possible with stored teacher features"
        ),
    )
    crop: bool = Field(
        False,
        description=(
            "show a random part of `img_size` pixels around one of the objects, at the resolution "
            "of the image or tile, instead of all of it resized; not possible with stored teacher "
            "features"
        ),
    )
    brightness: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "maximum relative change of brightness, drawn uniformly; stored teacher "
            "features are those of the unchanged image"
        ),
    )
    contrast: float = Field(
        0.0, ge=0, lt=1, description="maximum relative change of contrast, drawn uniformly"
    )
    saturation: float = Field(
        0.0, ge=0, le=1, description="maximum relative change of saturation, drawn uniformly"
    )
    hue: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description=(
            "maximum shift of the hue as a fraction of the colour circle, drawn uniformly"
        ),
    )

    @property
    def changes_colours(self) -> bool:
        """Return whether any colour changes."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


class Percentiles(Strict):
    percentile: tuple[float, float] = Field(
        description="lower and upper percentile of pixel values that become black and white"
    )

    @field_validator("percentile")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 100:
            raise ValueError("give two rising numbers from 0 to 100, such as [0.5, 99.5]")
        return value


def _rising_range(value: object) -> object:
    if isinstance(value, list | tuple) and (len(value) != 2 or not value[0] < value[1]):
        raise ValueError("give two rising numbers, such as [0, 4095]")
    return value


def _three_bands(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is not None and len(value) not in {1, 3}:
        raise ValueError("give one band, or three for red, green and blue; the first band is 1")
    return value


Intensity = Annotated[
    Literal["min_max", "bit_depth"] | tuple[float, float] | Percentiles,
    BeforeValidator(_rising_range),
]
Bands = Annotated[tuple[Annotated[int, Field(ge=1)], ...] | None, AfterValidator(_three_bands)]


class ImageOptions(Strict):
    """Options for reading image files as upright 8-bit RGB."""

    bands: Bands = Field(
        None,
        description=(
            "bands to read from the file, counted from 1 as in GDAL and ImageJ: three for "
            "red, green and blue, or one for grey; unset: the file must be grey or RGB"
        ),
    )
    intensity: Intensity = Field(
        "min_max",
        description=(
            "values that become black and white in images of more than 8 bits: `min_max` of "
            "each image, `bit_depth` (0 and the maximum of the data type), two numbers such "
            'as [0, 4095], or {"percentile": [0.5, 99.5]} of each image'
        ),
    )
    exif_orientation: Literal["apply", "ignore"] | None = Field(
        None,
        description=(
            "`apply` rotates photographs by their EXIF orientation, `ignore` reads "
            "them as stored; unset: `apply`, with an error if masks fit the stored "
            "orientation instead"
        ),
    )
    max_megapixels: float = Field(
        178.0,
        gt=0,
        description=(
            "maximum size of images and masks in millions of pixels; larger ones are an error"
        ),
    )


class MaskOptions(Strict):
    """Options for reading annotations as objects."""

    soft_masks: Literal["refuse", "labels"] | Annotated[float, Field(gt=0, lt=1)] = Field(
        "refuse",
        description=(
            "how to read mask files with intermediate values, which JPEG and smoothing "
            "cause: `refuse` (an error), a threshold such as 0.5 (fraction of white above "
            "which a pixel is foreground), or `labels` (each value is a label)"
        ),
    )
    read_masks_by: Literal["both", "number", "colour"] = Field(
        "both",
        description=(
            "how to read mask files with a palette or an inverted scale: by the stored "
            "`number`, by the visible `colour`, or `both` (an error if they disagree)"
        ),
    )
    split_components: bool = Field(
        False,
        description=(
            "treat each connected component of a mask or label as one object; pixels "
            "connect along their sides"
        ),
    )
    crowds: Literal["ignore", "objects"] = Field(
        "ignore",
        description=(
            "how to read COCO's `iscrowd`: as regions to ignore, or as ordinary `objects`, "
            "for tools that set it on every brushed mask"
        ),
    )
    unannotated: Literal["refuse", "empty"] = Field(
        "refuse",
        description=(
            "how to treat images without annotations: `refuse` (an error), or `empty` "
            "(images without objects)"
        ),
    )


class Fold(Strict):
    """One part of the images, of several that each image is in once."""

    number: int = Field(ge=0, description="number of the part, counted from 0")
    of: int = Field(ge=2, description="number of parts")

    @model_validator(mode="after")
    def _check(self) -> "Fold":
        if self.number >= self.of:
            raise ValueError(f"number must be less than {self.of}, because parts count from 0")
        return self


_IMAGE_OF_TILE = r"^(.*?)(?:@\d+,\d+(?:/\d+)?)?$"


class Tile(Strict):
    """Tiles of images that are larger than one; other images are used as they are."""

    size: int = Field(1024, ge=64, description="side of a tile in pixels of the image")
    overlap: int = Field(
        128, ge=0, description="pixels that neighbouring tiles have in common, at least"
    )
    min_visible: float = Field(
        0.5,
        gt=0,
        le=1,
        description="smallest fraction of an object that a tile must show to train on it",
    )
    cache_gb: float = Field(
        50.0,
        gt=0,
        description="disk space in GiB for images that cannot be read tile by tile (PNG, JPEG, and "
        "others), which are decoded once",
    )

    @model_validator(mode="after")
    def _check(self) -> "Tile":
        if self.overlap >= self.size:
            raise ValueError(f"overlap: {self.overlap} must be less than size, {self.size}")
        return self


class Data(ImageOptions, MaskOptions):
    """Choice of images and objects, and options for reading their files."""

    min_area: int = Field(0, ge=0, description="minimum area of an object in pixels of its image")
    max_objects_per_image: int | None = Field(
        None,
        ge=1,
        description="maximum number of objects per image; the largest are kept; unset: all",
    )
    classes: tuple[Name, ...] | None = Field(
        None, description="classes of objects to use; unset: all"
    )
    ignore: tuple[Name, ...] = Field(
        (),
        description=(
            "classes, or values of label maps such as 255, to ignore; the pixels count "
            "neither as object nor as background"
        ),
    )
    subset: str | None = Field(
        None, description="text file with the ids of the images to use, one per line; unset: all"
    )
    val_fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description=(
            "fraction of the training images used for validation, drawn with `split_seed`, "
            "if `val_img_dir` and `val_mask_dir` are null"
        ),
    )
    split_seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description=(
            "random seed that chooses the images of `val_fraction`; it is separate from "
            "`seed`, so that runs with other seeds validate on the same images"
        ),
    )
    tile: Tile | None = Field(
        None,
        description=(
            "cut images into tiles, for many small objects in large images "
            "([large images](../docs/large_images.md)); unset: each image is resized as a whole"
        ),
    )
    fold: Fold | None = Field(
        None,
        description=(
            "part of the training images used for validation instead of `val_fraction`, "
            '`{"number": 0, "of": 5}`; the key `folds` of a run makes a variant for each part'
        ),
    )
    groups: str | None = Field(
        None,
        description=(
            "groups of images, for example by patient or slide: a CSV file with columns "
            "image_id and group, or a regular expression whose first bracket matches the "
            "group in an image id; `val_fraction` does not split a group, and confidence "
            "intervals resample groups"
        ),
    )
    duplicates: Literal["refuse", "allow"] = Field(
        "refuse",
        description="identical images in training and validation: `refuse` (an error) or `allow`",
    )
    max_broken: int = Field(
        0,
        ge=0,
        description=(
            "maximum number of broken images and masks to leave out; one more is an error"
        ),
    )
    revision: str | None = Field(
        None,
        min_length=1,
        description=(
            "label for the state of the files; if set, the index is rebuilt only when the "
            "label changes; unset: it is rebuilt when files change"
        ),
    )

    @property
    def units(self) -> str | None:
        """Return `groups`, or the expression for the image of a tile: what is drawn independently.

        None if these are images.
        """
        return _IMAGE_OF_TILE if self.groups is None and self.tile is not None else self.groups

    @property
    def groups_file(self) -> str | None:
        """File that `groups` names; None for a regular expression, or without groups."""
        return self.groups if self.groups and is_groups_file(self.groups) else None

    @field_validator("groups")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None and not is_groups_file(value):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(
                    f"neither a regular expression ({error}) nor a file name that ends with .csv"
                ) from None
        return value


class Synthetic(Strict):
    train: int = Field(600, ge=1, description="training images")
    val: int = Field(100, ge=1, description="validation images")
    size: int = Field(128, ge=32, description="side of an image in pixels")
    objects: SceneObjects = Field(
        "shapes", description="what the scenes show: `shapes` with textures, or `cells`: bent rods"
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="random seed of the scenes; it is separate from `seed`"
    )
