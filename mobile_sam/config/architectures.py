"""Architectures, read from `configs/*.yaml`, by `model_type`."""

import re
from functools import cache
from itertools import accumulate
from typing import Any

import yaml

from mobile_sam.system.package_data import CONFIG_DIR

TIMM = "timm/"


@cache
def architectures() -> dict[str, dict[str, Any]]:
    """Return all architectures of `configs/*.yaml`, by `model_type`."""
    table: dict[str, dict[str, Any]] = {}
    for path in sorted(CONFIG_DIR.glob("*.yaml")):
        table |= yaml.safe_load(path.read_text(encoding="utf-8"))
    return table


def is_architecture(model_type: str) -> bool:
    """Return whether `model_type` names an architecture; timm checks its own names when it builds.

    A name of timm has no slash or colon, because it becomes part of paths and must not lead to
    another source.
    """
    return model_type in architectures() or bool(re.fullmatch(TIMM + r"[\w.-]+", model_type))


def architecture(model_type: str) -> dict[str, Any]:
    """Return an architecture; `timm/<name>` is a timm backbone with the other parts of MobileSAM.

    Raises KeyError for an unknown name.
    """
    if model_type.startswith(TIMM):
        encoder = {"family": "timm", "name": model_type.removeprefix(TIMM)}
        return architectures()["vit_t"] | {"image_encoder": encoder}
    return architectures()[model_type]


def stride_16_blocks(model_type: str) -> range:
    """Return the numbers of the encoder blocks whose output has stride 16, like the embedding."""
    encoder = architecture(model_type)["image_encoder"]
    if encoder["family"] == "timm":
        return range(0)
    if encoder["family"] == "sam_vit":
        return range(encoder["depth"])
    return range(sum(encoder["depths"][:2]), sum(encoder["depths"]))


def feature_channels(model_type: str, level: int | str) -> int:
    """Return the channels of a teacher's embedding (`neck`) or block output."""
    settings = architecture(model_type)
    encoder = settings["image_encoder"]
    if level == "neck":
        return settings["embed_dim"]
    if encoder["family"] == "sam_vit":
        return feature_width(encoder)
    ends = accumulate(encoder["depths"])
    return next(w for w, end in zip(encoder["embed_dims"], ends, strict=True) if int(level) < end)


def feature_width(encoder: dict[str, Any]) -> int:
    """Return the channels of the last block of a shipped encoder, which enter the neck."""
    return encoder["width"] if encoder["family"] == "sam_vit" else encoder["embed_dims"][-1]
