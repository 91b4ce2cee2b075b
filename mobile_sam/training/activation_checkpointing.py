"""Activation checkpointing of the image encoder: saves memory, costs a second forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mobile_sam.models.tiny_vit import TinyViTEncoder
from mobile_sam.system.errors import ConfigError
from mobile_sam.training.optim import save_statistics


def recompute_encoder(encoder: Any) -> None:
    """Make the encoder store only the inputs of its stages or blocks for the backward pass.

    Chen et al., arXiv:1604.06174. Raises ConfigError if a timm backbone does not support it.
    """
    if isinstance(encoder, TinyViTEncoder):
        encoder.recompute = True
        return
    try:
        encoder.body.set_grad_checkpointing()
    except (AttributeError, AssertionError) as error:
        name = type(encoder.body).__name__
        raise ConfigError(
            f"recompute_encoder: timm's {name} does not support it; set it to false"
        ) from error


@contextmanager
def keep_statistics(module: nn.Module) -> Iterator[None]:
    """Restore the BatchNorm statistics at the end, so that a repeated pass does not count twice."""
    restore = save_statistics(module)
    try:
        yield
    finally:
        restore()
