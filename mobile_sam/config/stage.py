"""Stages: the keys that a stage can override, each declared once.

`StageSettings` declares these keys. A run has all of them, as the defaults of its stages.
`StageEntry`, an entry of `stage_schedule`, has all of them, unset. `Stage` combines both.
"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from mobile_sam.config.keys import Strict, Weight, key_metadata, stage_key
from mobile_sam.config.losses import DistillLosses, LossWeights
from mobile_sam.config.sections import (
    Augment,
    CheckpointKind,
    ClickTarget,
    Freeze,
    Prompts,
    SafeName,
)

# Recorded settings lack these keys at their defaults, so that stages from before they existed stay
# valid. New keys belong here.
_LATER_KEYS: frozenset[str] = frozenset({"mask_loss_points"})
_LATER_PARTS = {"augment": ("crop",)}  # the same for parts of keys


class StageSettings(Strict):
    """Keys of a run that an entry of `stage_schedule` can change for one stage."""

    distill_losses: DistillLosses = stage_key(
        DistillLosses, "weights of the distillation losses", used_if="distillation"
    )
    lambda_coef: Weight = stage_key(
        1.0,
        "weight of the sum of the distillation losses in the total loss",
        used_if="distillation",
    )
    loss_weights: LossWeights = stage_key(LossWeights, "weights of the supervised losses")
    mask_loss_points: int | None = stage_key(
        None,
        "number of points of each mask at which focal, Dice and boundary loss are computed, which "
        "needs less memory, a multiple of 8; Mask2Former uses 12,544; null: at all pixels",
        used_if="supervised",
        ge=16,
        multiple_of=8,
    )
    learning_rate: float = stage_key(1e-4, "peak learning rate of AdamW", gt=0)
    freeze: Freeze = stage_key(Freeze, "parts of the model that are not trained")
    prompts: Prompts = stage_key(Prompts, "kinds of prompts drawn in training", used_if="prompted")
    prompt_rounds: int = stage_key(
        1,
        "decoder passes per step; each pass after the first gets a click in the largest error "
        "region and the previous prediction",
        used_if="prompted",
        ge=1,
        le=32,
    )
    click_target: ClickTarget = stage_key(
        "truth",
        "reference for the corrective clicks of `prompt_rounds`: clicks are placed where the "
        "student differs from the ground truth (`truth`) or from the teacher's mask (`teacher`)",
        used_if="clicked",
    )
    augment: Augment = stage_key(Augment, "random augmentation of training images")
    start_from: CheckpointKind = stage_key(
        "last", "checkpoint of the previous stage from which a stage starts", used_if="continued"
    )


class StageInterval(Strict):
    """Keys that only an entry of `stage_schedule` has: its epochs, its name, and its changes."""

    start_epoch: int = Field(ge=0, description="first epoch, counted from 0")
    end_epoch: int = Field(ge=0, description="first epoch after the stage")
    name: SafeName | None = Field(
        None,
        description="name of the stage, used in paths as `NN_name`; unset: chosen by its losses",
    )
    distillation: bool | None = Field(
        None, description="whether the stage distils; unset: `use_distill`"
    )

    @property
    def changes(self) -> dict[str, Any]:
        """Keys of `StageSettings` that the entry sets, with their values."""
        values = {name: getattr(self, name, None) for name in StageSettings.model_fields}
        return {name: value for name, value in values.items() if value is not None}


def _optional(model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a model, each null by default."""
    unset = Field(None, description="unset: the run's own")
    return {
        name: (_type_of(name, field) | None, unset) for name, field in model.model_fields.items()
    }


def _type_of(name: str, field: FieldInfo) -> Any:
    if name == "loss_weights":  # each weight can be set alone
        return create_model("PartialLossWeights", __base__=Strict, **_optional(LossWeights))
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


if TYPE_CHECKING:
    StageEntry = StageInterval
else:
    StageEntry = create_model(
        "StageEntry",
        __base__=StageInterval,
        __doc__="One entry of `stage_schedule`.",
        **_optional(StageSettings),
    )


class Stage(StageSettings):
    """Contiguous interval of epochs with its final settings.

    start_epoch is inclusive, end_epoch exclusive; both count from the start of the run.
    """

    index: int
    name: str
    start_epoch: int
    end_epoch: int
    distillation: bool

    @property
    def directory(self) -> str:
        """`NN_name`, the stage's name in paths, tables and plots."""
        return f"{self.index:02d}_{self.name}"

    @property
    def supervised(self) -> bool:
        """Return whether any loss compares masks."""
        return bool(self.loss_weights.nonzero())

    @property
    def prompt_distillation(self) -> bool:
        """Return whether the decoders of student and teacher decode the same prompts."""
        return self.distillation and bool(self.distill_losses.nonzero("prompts"))

    @property
    def prompted(self) -> bool:
        """Return whether the student's decoder is used."""
        return self.supervised or self.prompt_distillation

    @property
    def clicked(self) -> bool:
        """Return whether the student's decoder decodes corrective clicks."""
        return self.prompted and self.prompt_rounds > 1

    @property
    def continued(self) -> bool:
        """Return whether an earlier stage exists."""
        return self.index > 0

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the training of the stage depends on, as plain values.

        Keys of `_LATER_KEYS` are left out at their defaults.
        """
        conditions = {
            name: key_metadata(StageSettings, name, "used_if")
            for name in StageSettings.model_fields
        }
        used = {
            name for name, used_if in conditions.items() if not used_if or getattr(self, used_if)
        }
        used |= {"start_epoch", "end_epoch", "distillation"}
        later = self.model_dump(include=used & _LATER_KEYS, exclude_defaults=True)
        settings = self.model_dump(include=used - _LATER_KEYS)
        for key, parts in _LATER_PARTS.items():
            changed = getattr(self, key).model_dump(exclude_defaults=True)
            settings[key] = {
                part: value
                for part, value in settings[key].items()
                if part not in parts or part in changed
            }
        return settings | later
