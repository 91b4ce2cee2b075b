"""Architectures as data: what `configs/*.yaml` says of each `model_type`."""

import re
from functools import cache
from itertools import accumulate
from typing import Any

import yaml

from mobile_sam.shipped import CONFIG_DIR

TIMM = "timm/"


@cache
def architectures() -> dict[str, dict[str, Any]]:
    """All architectures of `configs/*.yaml`, by `model_type`."""
    table: dict[str, dict[str, Any]] = {}
    for path in sorted(CONFIG_DIR.glob("*.yaml")):
        table |= yaml.safe_load(path.read_text())
    return table


def is_architecture(model_type: str) -> bool:
    """Whether `model_type` names one; what timm lacks is refused when it is built.

    A name of timm has no slash or colon: it becomes part of paths, and leads to no other source.
    """
    return model_type in architectures() or bool(re.fullmatch(TIMM + r"[\w.-]+", model_type))


def architecture(model_type: str) -> dict[str, Any]:
    """One architecture; `timm/<name>` is a timm backbone with the other parts of MobileSAM.

    Raises KeyError for a name that `is_architecture` denies.
    """
    if model_type.startswith(TIMM):
        encoder = {"family": "timm", "name": model_type.removeprefix(TIMM)}
        return architectures()["vit_t"] | {"image_encoder": encoder}
    return architectures()[model_type]


def stride_16_blocks(model_type: str) -> range:
    """Numbers of the encoder blocks whose output has the stride of the embedding."""
    encoder = architecture(model_type)["image_encoder"]
    if encoder["family"] == "timm":
        return range(0)
    if encoder["family"] == "sam_vit":
        return range(encoder["depth"])
    return range(sum(encoder["depths"][:2]), sum(encoder["depths"]))


def feature_channels(model_type: str, level: int | str) -> int:
    """Channels of a teacher's embedding (`neck`) or block output."""
    settings = architecture(model_type)
    encoder = settings["image_encoder"]
    if level == "neck":
        return settings["embed_dim"]
    if encoder["family"] == "sam_vit":
        return encoder["width"]
    ends = accumulate(encoder["depths"])
    return next(w for w, end in zip(encoder["embed_dims"], ends, strict=True) if int(level) < end)
