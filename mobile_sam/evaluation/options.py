"""Options that control how models are evaluated."""

from dataclasses import dataclass

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import Protocol


@dataclass(frozen=True)
class EvaluationOptions:
    """Options for prompts and for thresholding masks.

    mask_threshold: threshold of mask logits. thresholds: further thresholds that are evaluated for
    box and point prompts. protocols: as `config.protocols`. automatic_images: number of images that
    are segmented without prompts. automatic_points: grid points along one side of those images.
    """

    mask_threshold: float
    thresholds: tuple[float, ...]
    protocols: tuple[Protocol, ...]
    automatic_images: int = 0
    automatic_points: int = 32


def evaluation_options(config: RunConfig) -> EvaluationOptions:
    """Return the options of a run; `thresholds` includes the run's own threshold."""
    return EvaluationOptions(
        config.mask_threshold,
        tuple(sorted({*config.thresholds, config.mask_threshold})),
        config.protocols,
        config.automatic_images,
        config.automatic_points,
    )
