"""Names of tensors in the original MobileSAM and SAM code, and in Hugging Face's transformers.

An encoder with other names has `original_names`: pairs (ours, original), specific ones first. A
part that begins with a dot is replaced anywhere in a name, any other only at its start. The prompt
encoder and the mask decoder have the original names.

The tensors of transformers' `SamModel` are those of the original, but the position encoding of
prompts is stored twice.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

Rules = Sequence[tuple[str, str]]

TINY_VIT: Rules = (
    ("body.patch_embed.conv1.", "patch_embed.seq.0."),
    ("body.patch_embed.conv2.", "patch_embed.seq.2."),
    # PatchMerging opens a stage in timm and closes the one before in the original.
    ("body.stages.1.downsample.", "layers.0.downsample."),
    ("body.stages.2.downsample.", "layers.1.downsample."),
    ("body.stages.3.downsample.", "layers.2.downsample."),
    ("body.stages.", "layers."),
)
SAM_VIT: Rules = ((".mlp.fc1.", ".mlp.lin1."), (".mlp.fc2.", ".mlp.lin2."), ("body.", ""))

# Parameters of the original TinyViT classifier, which MobileSAM stores but never uses.
_UNUSED = re.compile(r"(norm_head|head)\.|(.*\.)?(ab|attention_bias_idxs)$")

_HEAD = r"mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+)"
# A multilayer perceptron of the mask decoder: first, middle and last layer.
_LAYER = re.compile(rf"({_HEAD})\.(proj_in|proj_out|layers\.(\d+))\.(weight|bias)")
# Pairs (Hugging Face's, original); all that match are applied in this order.
_HUGGING_FACE = tuple(
    (re.compile(pattern), original)
    for pattern, original in (
        (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
        (r"^vision_encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"image_encoder.blocks.\1.norm\2."),
        (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
        (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
        (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
        (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
        (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
        (r"^vision_encoder\.", "image_encoder."),
        (
            r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding$",
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        ),
        (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
        (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
        (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
        (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
        (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
        (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
        (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
        (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
        (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
        (r"^(mask_decoder\.transformer\.layers\.\d+)\.layer_norm(\d)\.", r"\1.norm\2."),
        (r"^(mask_decoder\.transformer)\.layer_norm_final_attn\.", r"\1.norm_final_attn."),
    )
)


def to_original_name(encoder: nn.Module, name: str) -> str:
    """Return the original name of a tensor of an image encoder; both without `image_encoder.`."""
    return _rename(name, _rules(encoder))


def own_state(
    encoder: nn.Module, state: dict[str, Tensor], prefix: str = "image_encoder."
) -> dict[str, Tensor]:
    """Return a state dict with our names for the tensors of an image encoder.

    state: weights with original or our names; names of the encoder begin with `prefix`. Tensors
    that the original stores but does not use are left out.
    """
    rules = [(original, ours) for ours, original in _rules(encoder)]
    our_names = set(encoder.state_dict())
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name in our_names:
            renamed[key] = value
        elif not _UNUSED.match(name):
            renamed[prefix + _rename(name, rules)] = value
    return renamed


def accept_original_names(
    encoder: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """Make `load_state_dict` of an encoder, or of a model that contains it, accept original names.

    This is a hook of torch, which passes a copy of the state dict.
    """
    renamed = own_state(encoder, state, prefix)
    state.clear()
    state.update(renamed)


def _rules(encoder: nn.Module) -> Rules:
    return getattr(encoder, "original_names", ())


def _rename(name: str, rules: Rules) -> str:
    if not rules:
        return name
    for old, new in rules:
        if old.startswith("."):
            name = name.replace(old, new, 1)
        elif name.startswith(old):
            name = new + name[len(old) :]
            break
    # `conv.weight` after BatchNorm'd convolutions is `c.weight` in the original TinyViT.
    if re.search(r"(^|\.)(layers|seq)\.", name):
        return name.replace(".conv.weight", ".c.weight")
    return re.sub(r"\.c\.weight$", ".conv.weight", name)


def is_hugging_face(names: Collection[str]) -> bool:
    """Return whether tensors have the names of a `SamModel`, or of its encoder or decoder."""
    return (
        "vision_encoder.patch_embed.projection.weight" in names
        or "mask_decoder.upscale_conv1.weight" in names
    )


def from_hugging_face(names: Collection[str]) -> dict[str, str]:
    """Map names in transformers to names in the original code; unknown names do not change."""
    depths: dict[str, int] = {}
    for name in names:
        layer = _LAYER.fullmatch(name)
        if layer and layer[3] is not None:
            depths[layer[1]] = max(depths.get(layer[1], 0), int(layer[3]) + 1)
    return {name: _original_name(name, depths) for name in names}


def _original_name(name: str, depths: dict[str, int]) -> str:
    """Return the original name of one tensor.

    depths: number of the middle layers of each multilayer perceptron that has any.
    """
    layer = _LAYER.fullmatch(name)
    if layer:
        head, which, middle, kind = layer.groups()
        numbers = {"proj_in": 0, "proj_out": depths.get(head, 0) + 1}
        return f"{head}.layers.{numbers[which] if middle is None else int(middle) + 1}.{kind}"
    for pattern, original in _HUGGING_FACE:
        name = pattern.sub(original, name)
    return name
