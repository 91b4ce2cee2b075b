"""Names that the original MobileSAM and SAM code gives to the tensors of an image encoder.

An encoder with other names has `original_names`: pairs (ours, original), specific ones first. A
part that begins with a dot is replaced anywhere in a name, any other only at its start. The prompt
encoder and the mask decoder have the original names.
"""

import re
from collections.abc import Sequence
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
    rules, own = [(original, ours) for ours, original in _rules(encoder)], encoder.state_dict()
    renamed = {}
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name in own:
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
    own = own_state(encoder, state, prefix)
    state.clear()
    state.update(own)


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
