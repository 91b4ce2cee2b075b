"""The stages of a run: its schedule normalised, scaled, and reduced to what training depends on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mobile_sam.config import ConfigError, RunConfig, affects
from mobile_sam.options import (
    PROMPT_LOSSES,
    Augment,
    Clicks,
    DistillLosses,
    Freeze,
    Kept,
    LossWeights,
    Prompts,
    StageEntry,
)
from mobile_sam.teachers import projections


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


def normalise(config: RunConfig, source: str = "") -> tuple[Stage, ...]:
    """Contiguous stages that cover `[0, num_epochs)`.

    Epochs without an entry become a stage with the run's own settings; nothing is carried over
    from the entry before. Raises ConfigError for overlapping, empty or out-of-range entries, for
    a stage without any loss, and for distillation without a teacher.
    """
    source = source or f"run {config.run_name!r}"
    order = sorted(range(len(config.stage_schedule)), key=_start_of(config.stage_schedule))
    entries: list[tuple[str, StageEntry]] = []
    epoch = 0
    for position in order:
        entry = config.stage_schedule[position]
        where = f"{source}: stage_schedule[{position}]"
        _check_interval(entry, config.num_epochs, where)
        if entry.start_epoch < epoch:
            raise ConfigError(
                f"{where}: start_epoch: {entry.start_epoch} lies in the entry before, "
                f"which ends at {epoch}; entries must not overlap"
            )
        if entry.start_epoch > epoch:
            entries.append((f"{source}: epochs {epoch} to {entry.start_epoch}", _gap(epoch, entry)))
        entries.append((where, entry))
        epoch = entry.end_epoch
    if epoch < config.num_epochs:
        tail = StageEntry(start_epoch=epoch, end_epoch=config.num_epochs)
        entries.append((f"{source}: epochs {epoch} to {config.num_epochs}", tail))
    stages = tuple(_stage(config, index, entry) for index, (_, entry) in enumerate(entries))
    for stage, (where, _) in zip(stages, entries, strict=True):
        _check_stage(config, stage, where)
    return stages


def _start_of(entries: Sequence[StageEntry]) -> Any:
    return lambda position: entries[position].start_epoch


def _gap(epoch: int, following: StageEntry) -> StageEntry:
    return StageEntry(start_epoch=epoch, end_epoch=following.start_epoch)


def _check_interval(entry: StageEntry, num_epochs: int, where: str) -> None:
    if entry.end_epoch <= entry.start_epoch:
        raise ConfigError(
            f"{where}: end_epoch: {entry.end_epoch} is not after start_epoch {entry.start_epoch}"
        )
    if entry.end_epoch > num_epochs:
        raise ConfigError(
            f"{where}: end_epoch: {entry.end_epoch} is past num_epochs {num_epochs}; "
            "raise num_epochs or end the stage earlier"
        )


def _check_stage(config: RunConfig, stage: Stage, where: str) -> None:
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


def _stage(config: RunConfig, index: int, entry: StageEntry) -> Stage:
    weights = config.loss_weights.model_dump()
    if entry.loss_weights is not None:
        weights |= entry.loss_weights.model_dump(exclude_none=True)
    distillation = config.use_distill if entry.distillation is None else entry.distillation
    supervised = any(weights.values())
    name = "distill" if not supervised else "distill_finetune" if distillation else "finetune"
    return Stage(
        index=index,
        name=entry.name or name,
        start_epoch=entry.start_epoch,
        end_epoch=entry.end_epoch,
        distillation=distillation,
        lambda_coef=config.lambda_coef if entry.lambda_coef is None else entry.lambda_coef,
        loss_weights=LossWeights(**weights),
        learning_rate=entry.learning_rate or config.learning_rate,
        freeze=entry.freeze or config.freeze,
        prompts=entry.prompts or config.prompts,
        prompt_rounds=entry.prompt_rounds or config.prompt_rounds,
        augment=entry.augment or config.augment,
        distill_losses=entry.distill_losses or config.distill_losses,
        clicks=entry.clicks or config.clicks,
        start_from=entry.start_from or config.start_from,
    )


def scale(schedule: list[dict[str, Any]], old: int, new: int, source: str) -> list[dict[str, Any]]:
    """The schedule of `old` epochs stretched or shrunk to `new`; each stage keeps an epoch."""
    bounds = sorted(
        {0, old} | {entry[key] for entry in schedule for key in ("start_epoch", "end_epoch")}
    )
    if len(bounds) - 1 > new:
        raise ConfigError(
            f"{source}: num_epochs: {new} is too few for {len(bounds) - 1} stages; "
            "each needs at least one epoch"
        )
    scaled = {0: 0}
    for before, bound in pairwise(bounds):
        scaled[bound] = max(round(bound * new / old), scaled[before] + 1)
    for left, bound in enumerate(reversed(bounds)):
        scaled[bound] = min(scaled[bound], new - left)
    return [
        entry
        | {"start_epoch": scaled[entry["start_epoch"]], "end_epoch": scaled[entry["end_epoch"]]}
        for entry in schedule
    ]


def canonical(config: RunConfig, stage: Stage) -> str:
    """Sorted-key JSON of exactly the settings that training `stage` depends on.

    Paths of inputs are left out: Snakemake compares those itself.
    """
    kept = {"training"}
    if stage.index == 0:
        kept.add("start")
    if stage.distillation or (stage.index == 0 and config.decoder_from_teacher):
        kept.add("teacher")
    dumped = config.model_dump()
    settings = {key: value for key, value in dumped.items() if affects(key) in kept}
    settings["stage"] = stage.settings
    if config.lr_scheduler_span == "run":
        settings["num_epochs"] = config.num_epochs
    if any_distillation(config):
        # One shape for the learner of all stages.
        settings["projections"] = projections(config)
    return json.dumps(settings, sort_keys=True)


def learns_without_masks(config: RunConfig, stage: Stage) -> bool:
    """Whether images without masks take part in a stage."""
    return stage.distils and config.unlabelled_img_dir is not None


def any_distillation(config: RunConfig) -> bool:
    """Whether any stage of the run compares with a teacher."""
    return any(stage.distillation for stage in normalise(config))
