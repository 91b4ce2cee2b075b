"""A stage: the settings of some epochs, and whether they make sense together."""

import json
from dataclasses import dataclass
from typing import Any

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.options import (
    PROMPT_LOSSES,
    Augment,
    Clicks,
    DistillLosses,
    Freeze,
    Kept,
    LossWeights,
    Prompts,
)


@dataclass(frozen=True)
class Stage:
    """A contiguous interval of epochs with settings that nothing else can change.

    start_epoch is inclusive, end_epoch exclusive; both count from the start of the run.
    """

    index: int
    name: str
    start_epoch: int
    end_epoch: int
    distillation: bool
    lambda_coef: float
    loss_weights: LossWeights
    learning_rate: float
    freeze: Freeze
    prompts: Prompts
    prompt_rounds: int
    augment: Augment
    distill_losses: DistillLosses
    clicks: Clicks
    start_from: Kept

    @property
    def directory(self) -> str:
        """`NN_name`, the stage's name in paths, tables and plots."""
        return f"{self.index:02d}_{self.name}"

    @property
    def supervised(self) -> bool:
        """Whether any loss looks at masks."""
        return any(self.loss_weights.model_dump().values())

    @property
    def distils(self) -> bool:
        """Whether a teacher counts in the loss."""
        return self.distillation and self.lambda_coef > 0

    @property
    def compares_answers(self) -> bool:
        """Whether the decoders of student and teacher answer the same prompts."""
        return self.distils and bool(self.distill_losses.prompted)

    @property
    def prompted(self) -> bool:
        """Whether the student's decoder takes part."""
        return self.supervised or self.compares_answers

    @property
    def settings(self) -> dict[str, Any]:
        """The stage as plain values, for JSON: what its training depends on."""
        settings = {
            "start_epoch": self.start_epoch,
            "end_epoch": self.end_epoch,
            "distillation": self.distillation,
            "lambda_coef": self.lambda_coef,
            "loss_weights": self.loss_weights.model_dump(),
            "learning_rate": self.learning_rate,
            "freeze": self.freeze.model_dump(),
            "prompts": self.prompts.model_dump(),
            "prompt_rounds": self.prompt_rounds,
            "augment": self.augment.model_dump(),
            "clicks": self.clicks,
        }
        if self.distillation:
            settings["distill_losses"] = self.distill_losses.model_dump()
        if self.index > 0:
            settings["start_from"] = self.start_from
        return settings


def check_stage(config: RunConfig, stage: Stage, where: str) -> None:
    """Raise ConfigError for a stage that could learn nothing, or that asks for what is not there.

    where: what the message calls the stage.
    """
    if stage.distillation and config.teacher_checkpoint is None:
        raise ConfigError(
            f"{where}: distillation: true, but teacher_checkpoint is null; "
            "set it, or distillation to false"
        )
    if stage.distils and not any(stage.distill_losses.model_dump().values()):
        raise ConfigError(f"{where}: distillation: true, but all weights of distill_losses are 0")
    if stage.compares_answers:
        _check_answers(config, where)
    if stage.clicks == "teacher" and stage.prompt_rounds > 1 and not stage.compares_answers:
        raise ConfigError(
            f'{where}: clicks: "teacher", but no teacher answers prompts in this stage; give one '
            f'of {", ".join(PROMPT_LOSSES)} a weight in distill_losses, or set clicks to "truth"'
        )
    if not stage.distils and not stage.supervised:
        raise ConfigError(
            f"{where}: loss_weights: all are 0 and nothing is distilled; nothing would be learned"
        )
    if stage.prompted and not any(stage.prompts.shares.values()):
        kinds = ", ".join(stage.prompts.shares)
        raise ConfigError(f"{where}: prompts: {kinds} are all 0; give one a share")
    if all(stage.freeze.model_dump().values()):
        raise ConfigError(f"{where}: freeze: all parts are frozen; nothing would be learned")
    if stage.freeze.image_encoder and not stage.prompted:
        raise ConfigError(
            f"{where}: freeze.image_encoder: true, but distillation of features trains nothing else"
        )
    if stage.distils and config.teacher == "stored":
        _check_augment(config, stage, where)


def _check_answers(config: RunConfig, where: str) -> None:
    """The teacher's decoder needs its embedding."""
    levels = [config.distill_feature_level, *(t.feature_level for t in config.more_teachers)]
    for level in levels:
        if level != "neck" and (not isinstance(level, tuple) or "neck" not in level):
            raise ConfigError(
                f"{where}: distill_losses compares answers ({', '.join(PROMPT_LOSSES)}), "
                f'for which the teacher\'s embedding is needed; add "neck" to the level {level}'
            )


def _check_augment(config: RunConfig, stage: Stage, where: str) -> None:
    """Features are stored of the whole image, as it is or mirrored; they do not fit another."""
    for key, fits, instead in (
        ("scale", False, ""),
        ("flip", "hflip" in config.feature_views, 'feature_views to ["identity", "hflip"], or '),
    ):
        value = getattr(stage.augment, key)
        if value and not fits:
            views, plain = json.dumps(config.feature_views), json.dumps(type(value)(0))
            raise ConfigError(
                f"{where}: augment.{key}: {json.dumps(value)}, but the stage compares with stored "
                f"teacher features, and those are of the views {views}, none of which is the "
                f"changed image; set augment of this stage's entry in stage_schedule to "
                f'{{"{key}": {plain}}}, or {instead}teacher to "online"'
            )
