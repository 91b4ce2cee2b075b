"""Identity and size of features: stores with equal identities are exchangeable."""

from typing import Any

import numpy as np

from mobile_sam.config.architectures import feature_channels
from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import level_name
from mobile_sam.config.teachers import random_seed
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import file_digest

Identity = dict[str, Any]


def identity(config: RunConfig) -> Identity:
    """Return the identity of the features of this run's teacher."""
    return {
        "format": "mobile_sam teacher features",
        "version": 2,
        "teacher_sha256": teacher_digest(config),
        "teacher_model_type": config.teacher_model_type,
        "levels": list(config.distill_levels),
        "img_size": config.img_size,
        "dtype": config.feature_dtype,
        "views": list(config.feature_views),
        "preprocessing": "longest side to img_size, bilinear; ImageNet mean and std; zero padding",
    }


def level_shapes(expected: Identity) -> dict[str, tuple[int, ...]]:
    """Return the shape (views, C, S/16, S/16) of one image's features, by level name."""
    side, views = expected["img_size"] // 16, len(expected["views"])
    return {
        level_name(level): (
            views,
            feature_channels(expected["teacher_model_type"], level),
            side,
            side,
        )
        for level in expected["levels"]
    }


def bytes_per_image(expected: Identity) -> int:
    """Return the bytes that one image takes on disk, over all levels and views."""
    values = np.dtype(expected["dtype"]).itemsize
    scales = 4 if expected["dtype"] == "int8" else 0
    return sum(
        views * channels * (height * width * values + scales)
        for views, channels, height, width in level_shapes(expected).values()
    )


def teacher_digest(config: RunConfig) -> str:
    """Return what identifies the teacher's weights: SHA-256 of their file, or a random seed."""
    path = RunPaths(config).teacher_weights
    return f"random with seed {random_seed(config)}" if path is None else file_digest(path)
