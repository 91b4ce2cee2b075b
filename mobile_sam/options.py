"""Groups of settings: what stands in braces within a run's JSON."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _safe_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or ".." in name:
        raise ValueError(
            f"{name!r} becomes a directory name: use letters, digits, '_', '-' and '.' only"
        )
    return name


SafeName = Annotated[str, AfterValidator(_safe_name)]
Weight = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LossWeights(Strict):
    focal: Weight = Field(20.0, description="focal loss on mask logits")
    dice: Weight = Field(1.0, description="dice loss on mask probabilities")
    iou: Weight = Field(1.0, description="squared error of the predicted IoU")


class PartialLossWeights(Strict):
    focal: Weight | None = Field(None, description="unset: the run's own weight")
    dice: Weight | None = Field(None, description="unset: the run's own weight")
    iou: Weight | None = Field(None, description="unset: the run's own weight")


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


class DistillLosses(Strict):
    mse: Weight = Field(1.0, description="mean squared error of features")
    cosine: Weight = Field(1.0, description="one minus the cosine of feature vectors, per pixel")


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
