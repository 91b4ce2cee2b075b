"""Trained runs: settings, weights and results."""

from typing import Any

import pandas as pd
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint
from mobile_sam.training.run import train_run

# All that is drawn at random, at once.
RANDOM = {
    "prompts": {"box": 1, "point": 1, "interior_point": 1, "points": 1, "mask": 1},
    "prompt_rounds": 2,
    "mask_loss_points": 64,
    "augment": {"flip": True, "scale": 0.4, "brightness": 0.2, "contrast": 0.2, "hue": 0.1},
}


def weights(config: RunConfig, stage: int = -1) -> dict[str, torch.Tensor]:
    return checkpoint.load(RunPaths(config).checkpoint(normalise(config)[stage]))["learner"]


def trained(config: RunConfig) -> dict[str, torch.Tensor]:
    train_run(config)
    return weights(config)


def results(config: RunConfig) -> list[dict[str, Any]]:
    """What the stages leave, without what differs from run to run."""
    found: list[dict[str, Any]] = []
    for stage in normalise(config):
        for kept in ("last", "best"):
            content = checkpoint.load(RunPaths(config).checkpoint(stage, kept))
            content.pop(
                "key"
            )  # has the bytes of the previous checkpoint, with the name of its file
            found.append(content)
        metrics = pd.read_csv(RunPaths(config).metrics(stage))
        found.append(metrics.drop(columns=["seconds", "images_per_s"]).to_dict())
    return found
