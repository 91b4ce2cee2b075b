"""Losses: one row each, with kind, default weight and description.

The function of a loss has the same name, in `mobile_sam/training/losses.py`. This
module imports no torch. `docs/architecture.md` shows how to add a loss.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from mobile_sam.config.keys import Strict, Weight, key_metadata

# Inputs that a loss compares; `mobile_sam/training/losses.py` lists the arguments of each kind.
Kind = Literal["mask", "iou", "features", "prompts"]


def loss(kind: Kind, weight: float, description: str) -> Any:
    """Declare a loss with its default weight."""
    return Field(weight, description=description, json_schema_extra={"kind": kind})


class Weights(Strict):
    """Weights of losses; 0 disables a loss."""

    @classmethod
    def names(cls, *kinds: Kind) -> tuple[str, ...]:
        """Return the names of the losses of these kinds."""
        return tuple(name for name in cls.model_fields if key_metadata(cls, name, "kind") in kinds)

    def nonzero(self, *kinds: Kind) -> dict[str, float]:
        """Return the weights that are not 0, by name; `kinds` selects kinds, by default all."""
        weights: Mapping[str, float] = self.model_dump()
        names = self.names(*kinds) if kinds else tuple(weights)
        return {name: weights[name] for name in names if weights[name]}


class LossWeights(Weights):
    """Weights of the supervised losses."""

    focal: Weight = loss("mask", 20.0, "weight of the focal loss on mask logits")
    dice: Weight = loss("mask", 1.0, "weight of the Dice loss on mask probabilities")
    iou: Weight = loss("iou", 1.0, "weight of the squared error of the predicted IoU")
    boundary: Weight = loss("mask", 0.0, "weight of the cross-entropy along the edge of the object")

    @property
    def computed(self) -> dict[str, float]:
        """Weights of the losses that a step computes; none if all are 0.

        Losses with a default weight are computed even if their weight is 0, as metrics.
        """
        weights = self.model_dump()
        defaults = LossWeights().nonzero()
        if not any(weights.values()):
            return {}
        return {name: weight for name, weight in weights.items() if weight or name in defaults}


class DistillLosses(Weights):
    """Weights of the distillation losses."""

    mse: Weight = loss("features", 1.0, "weight of the mean squared error of features")
    cosine: Weight = loss(
        "features", 1.0, "weight of one minus the cosine similarity of feature vectors, per pixel"
    )
    attention: Weight = loss(
        "features",
        0.0,
        "weight of the squared distance of attention maps (the magnitude of features per pixel)",
    )
    relation: Weight = loss(
        "features",
        0.0,
        "weight of the squared error of the cosine similarities between all pairs of pixels",
    )
    mask_bce: Weight = loss(
        "prompts",
        0.0,
        "weight of the Kullback-Leibler divergence from the teacher's masks, per pixel, for the "
        "same prompts; all four masks of each prompt",
    )
    mask_dice: Weight = loss("prompts", 0.0, "weight of the soft Dice loss to the teacher's masks")
    mask_tokens: Weight = loss(
        "prompts", 0.0, "weight of the mean squared error of the decoders' mask tokens"
    )
    predicted_iou: Weight = loss(
        "prompts",
        0.0,
        "weight of the squared error between the IoU predictions of student and teacher",
    )


LOSSES: dict[str, Kind] = {
    name: key_metadata(table, name, "kind")
    for table in (LossWeights, DistillLosses)
    for name in table.model_fields
}
FEATURE_LOSSES, PROMPT_LOSSES = DistillLosses.names("features"), DistillLosses.names("prompts")
