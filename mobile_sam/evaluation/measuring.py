"""How models are measured."""

from dataclasses import dataclass

from mobile_sam.config import RunConfig
from mobile_sam.options import Protocol


@dataclass(frozen=True)
class Measuring:
    """How a model is asked, and how its answers become masks.

    mask_threshold: of mask logits. thresholds: others that are tried by box and point.
    protocols: as `config.protocols`. automatic_images, automatic_points: images that are segmented
    without prompts, and the points along a side of their grids.
    """

    mask_threshold: float
    thresholds: tuple[float, ...]
    protocols: tuple[Protocol, ...]
    automatic_images: int = 0
    automatic_points: int = 32


def measuring(config: RunConfig) -> Measuring:
    """How a run measures its models; its own threshold is among those that are tried."""
    return Measuring(
        config.mask_threshold,
        tuple(sorted({*config.thresholds, config.mask_threshold})),
        config.protocols,
        config.automatic_images,
        config.automatic_points,
    )
