"""Names of the weights of a SAM in Hugging Face's transformers (`SamModel`), and the original ones.

The tensors are the same in both, but transformers stores the position encoding of prompts twice.
"""

import re
from collections.abc import Collection

_HEAD = r"mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+)"
# A multilayer perceptron of the mask decoder: first, middle and last layer.
_LAYER = re.compile(rf"({_HEAD})\.(proj_in|proj_out|layers\.(\d+))\.(weight|bias)")
# Pairs (Hugging Face's, original); all that match are applied in this order.
_RULES = tuple(
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


def is_hugging_face(names: Collection[str]) -> bool:
    """Return whether tensors have the names of a `SamModel`, or of its encoder or decoder."""
    return (
        "vision_encoder.patch_embed.projection.weight" in names
        or "mask_decoder.upscale_conv1.weight" in names
    )


def original_names(names: Collection[str]) -> dict[str, str]:
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
    for pattern, original in _RULES:
        name = pattern.sub(original, name)
    return name
