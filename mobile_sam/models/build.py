"""Models by name: architectures are data in `configs/*.yaml`, built here through one table."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mobile_sam.architectures import architecture, architectures, is_architecture
from mobile_sam.config import ConfigError
from mobile_sam.models.mask_decoder import MaskDecoder
from mobile_sam.models.prompt_encoder import PromptEncoder
from mobile_sam.models.sam import Sam
from mobile_sam.models.sam_vit import SamViTEncoder
from mobile_sam.models.timm_encoder import TimmEncoder
from mobile_sam.models.tiny_vit import TinyViTEncoder


def build_sam_model(
    model_type: str,
    img_size: int = 1024,
    iou_head_depth: int = 3,
    iou_head_hidden_dim: int = 256,
    seed: int = 0,
) -> Sam:
    """A model with random weights that depend on `seed` alone.

    model_type: a name of `configs/*.yaml`.
    img_size: side of the model frame in pixels, a multiple of 64.
    Raises ConfigError for an unknown name or size.
    """
    if not is_architecture(model_type):
        known = ", ".join(sorted(architectures()))
        raise ConfigError(f"model_type: there is no {model_type!r}; there are {known}")
    if img_size % 64 or img_size <= 0:
        raise ConfigError(f"img_size: {img_size} is not a multiple of 64")
    settings = architecture(model_type)
    embed_dim = settings["embed_dim"]
    encoder = dict(settings["image_encoder"])
    family = ENCODERS[encoder.pop("family")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Sam(
            image_encoder=family(encoder, embed_dim),
            prompt_encoder=PromptEncoder(embed_dim, img_size),
            mask_decoder=MaskDecoder(
                embed_dim,
                iou_head_depth=iou_head_depth,
                iou_head_hidden_dim=iou_head_hidden_dim,
                **settings["mask_decoder"],
            ),
            img_size=img_size,
        )


def load_imagenet(model: Sam, model_type: str) -> None:
    """Give the image encoder timm's ImageNet weights; its neck and all else stay as they are.

    Raises ConfigError for an architecture without such weights, or when they cannot be fetched.
    """
    settings = architecture(model_type)["image_encoder"]
    name = IMAGENET.get(model_type, settings.get("name"))
    if name is None:
        raise ConfigError(
            f"checkpoint: timm has no ImageNet weights for {model_type!r}; "
            f"it has for {', '.join(IMAGENET)} and timm/<name>"
        )
    features = {"features_only": True} if settings["family"] == "timm" else {"num_classes": 0}
    try:
        source = timm.create_model(name, pretrained=True, **features)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"checkpoint: timm's ImageNet weights of {name!r} cannot be fetched ({error})"
        ) from error
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("head.")}
    model.image_encoder.get_submodule("body").load_state_dict(state)


def iou_head_shape(state: dict[str, Tensor]) -> tuple[int, int]:
    """(depth, hidden width) of the IoU head in a state dict."""
    prefix = "mask_decoder.iou_prediction_head.layers."
    weights = sorted(k for k in state if k.startswith(prefix) and k.endswith(".weight"))
    if not weights:
        raise ConfigError(f"the weights have no {prefix}*: they are not those of a SAM")
    first = state[f"{prefix}0.weight"]
    return len(weights), 256 if len(weights) == 1 else first.shape[0]


def _tiny_vit(settings: dict[str, Any], embed_dim: int) -> nn.Module:
    return TinyViTEncoder(**settings, out_dim=embed_dim)


def _sam_vit(settings: dict[str, Any], embed_dim: int) -> nn.Module:
    return SamViTEncoder(**settings, out_dim=embed_dim)


def _timm(settings: dict[str, Any], embed_dim: int) -> nn.Module:
    return TimmEncoder(**settings, out_dim=embed_dim)


# Architectures whose encoder is one of timm's as it is.
IMAGENET = {
    "vit_t": "tiny_vit_5m_224",
    "vit_t_11m": "tiny_vit_11m_224",
    "vit_t_21m": "tiny_vit_21m_224",
}
ENCODERS: dict[str, Callable[[dict[str, Any], int], nn.Module]] = {
    "tiny_vit": _tiny_vit,
    "sam_vit": _sam_vit,
    "timm": _timm,
}
