"""Options that control how models are evaluated."""

from dataclasses import asdict, dataclass
from typing import Any

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import Protocol


@dataclass(frozen=True)
class EvaluationOptions:
    """Options for prompts and for thresholding masks.

    mask_threshold: threshold of mask logits. thresholds: further thresholds that are evaluated for
    box and point prompts. protocols: as `config.protocols`. automatic_images: number of images that
    are segmented without prompts. automatic_points: grid points along one side of those images.
    click_objects: number of objects with simulated clicks; None: all.
    """

    mask_threshold: float
    thresholds: tuple[float, ...]
    protocols: tuple[Protocol, ...]
    automatic_images: int = 0
    automatic_points: int = 32
    click_objects: int | None = None

    def click_sample(self, objects: int) -> int | None:
        """Return how many of the objects have clicks; None if they are not sampled."""
        clicking, limit = {"clicks", "noc"} & set(self.protocols), self.click_objects
        return limit if clicking and limit is not None and limit < objects else None

    def metadata(self, objects: int) -> dict[str, Any]:
        """Return the options as tables store them, with `click_objects` if objects are sampled."""
        options = asdict(self) | {"click_objects": self.click_sample(objects)}
        # Tables from before the key existed stay equal.
        return {key: value for key, value in options.items() if value is not None}


def evaluation_options(config: RunConfig) -> EvaluationOptions:
    """Return the options of a run; `thresholds` includes the run's own threshold."""
    return EvaluationOptions(
        config.mask_threshold,
        tuple(sorted({*config.thresholds, config.mask_threshold})),
        config.protocols,
        config.automatic_images,
        config.automatic_points,
        config.click_objects,
    )
