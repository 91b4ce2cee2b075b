"""Models by name. Architectures are data in `configs/*.yaml`; families are rows of `ENCODERS`."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mobile_sam.config.architectures import architecture, architectures, is_architecture
from mobile_sam.models.mask_decoder import MaskDecoder
from mobile_sam.models.prompt_encoder import STRIDE, PromptEncoder
from mobile_sam.models.sam import PARTS, Sam
from mobile_sam.models.sam_vit import SamViTEncoder
from mobile_sam.models.timm_encoder import TimmEncoder
from mobile_sam.models.tiny_vit import TinyViTEncoder
from mobile_sam.models.two_way import TwoWayTransformer
from mobile_sam.models.wrappings import describe
from mobile_sam.system.errors import ConfigError


def build_sam_model(
    model_type: str,
    img_size: int = 1024,
    iou_head_depth: int = 3,
    iou_head_hidden_dim: int = 256,
    seed: int = 0,
) -> Sam:
    """Build a model with random weights that depend on `seed` only.

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
            prompt_encoder=PromptEncoder(
                embed_dim, (img_size // STRIDE, img_size // STRIDE), (img_size, img_size)
            ),
            mask_decoder=MaskDecoder(
                transformer_dim=embed_dim,
                transformer=TwoWayTransformer(embedding_dim=embed_dim, **settings["mask_decoder"]),
                iou_head_depth=iou_head_depth,
                iou_head_hidden_dim=iou_head_hidden_dim,
            ),
        )


def load_imagenet(model: Sam, model_type: str) -> None:
    """Load timm's ImageNet weights into the body of the image encoder; no other part changes.

    Raises ConfigError for an architecture without such weights, or if they cannot be fetched.
    """
    settings = architecture(model_type)["image_encoder"]
    name = IMAGENET.get(model_type, settings.get("name"))
    if name is None:
        raise ConfigError(
            f"checkpoint: timm has no ImageNet weights for {model_type!r}; "
            f"it has some for {', '.join(IMAGENET)} and timm/<name>"
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


def iou_head_shape(state: dict[str, Tensor], source: str = "the weights") -> tuple[int, int]:
    """Return (depth, hidden width) of the IoU head in a state dict.

    source: the file it comes from. Raises ConfigError for weights without that head
    or without a part of the model.
    """
    prefix = "mask_decoder.iou_prediction_head.layers."
    weights = [k for k in state if k.startswith(prefix) and k.endswith(".weight")]
    first = state.get(f"{prefix}0.weight")
    absent = [part for part in PARTS if not any(key.startswith(f"{part}.") for key in state)]
    if first is None or absent:
        raise ConfigError(
            f"{source}: incomplete weights of a SAM; the file holds {describe(state)}, but none of "
            f"{', '.join(absent) or prefix + '*'}; give weights of the whole model"
        )
    return len(weights), 256 if len(weights) == 1 else first.shape[0]


def _tiny_vit(settings: dict[str, Any], embed_dim: int) -> nn.Module:
    return TinyViTEncoder(**settings, out_dim=embed_dim)


def _sam_vit(settings: dict[str, Any], embed_dim: int) -> nn.Module:
    return SamViTEncoder(**settings, out_dim=embed_dim)


def _timm(settings: dict[str, Any], embed_dim: int) -> nn.Module:
    return TimmEncoder(**settings, out_dim=embed_dim)


# Architectures whose encoder has the same body as a model of timm.
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
