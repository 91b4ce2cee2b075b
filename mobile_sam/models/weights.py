"""Weights as files: safe loading, and the names that the original code gives them.

A state dict has our own (timm's) names in memory and the original names in files, so that what
this package writes loads in the original MobileSAM and SAM code, and the other way round.
"""

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobile_sam.config import ConfigError
from mobile_sam.faults import fault
from mobile_sam.models.build import build_sam_model, iou_head_shape
from mobile_sam.models.sam import Sam
from mobile_sam.models.sam_vit import SamViTEncoder
from mobile_sam.models.tiny_vit import TinyViTEncoder

StateDict = dict[str, Tensor]

# Parameters of the original TinyViT classifier: MobileSAM carries them along and never uses them.
_UNUSED = re.compile(r"image_encoder\.(norm_head|head)\.|\.(ab|attention_bias_idxs)$")
# What unpickling raises on bytes that are no pickle, says the documentation of `pickle`; and on one
# that calls what is allowed with wrong arguments.
_DAMAGES = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)


def load_file(path: Path) -> Any:
    """The content of a file written by `torch.save`; nothing in it is executed.

    Raises ConfigError for a file that is missing, damaged, or holds more than plain data.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path}: refused, because it holds more than tensors and plain values and loading it "
            f"could run code ({_first_line(error)})"
        ) from None
    except (*_DAMAGES, OSError) as error:
        if fault(error):
            raise
        raise ConfigError(
            f"{path}: not a file of torch.save, or a damaged one ({_first_line(error)}); delete "
            "it, and what has made or fetched it does so again"
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def module_digest(module: nn.Module) -> str:
    """sha256 of all weights and their names, in hexadecimal."""
    digest = hashlib.sha256()
    state: StateDict = module.state_dict()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_state_file(path: Path) -> StateDict:
    """A file of weights. Raises ConfigError for one that is damaged or holds something else."""
    content = load_file(path)
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ConfigError(
            f"{path}: not a weights file; it must hold a state dict of tensors. "
            "The weights of a finished run are in its weights.pt"
        )
    return content


def load_weights(path: Path, model_type: str, img_size: int) -> Sam:
    """The model in a weights file with original names; its IoU head is read off the file.

    Raises ConfigError that lists every missing, unexpected or wrongly shaped key.
    """
    state = load_state_file(path)
    depth, hidden = iou_head_shape(state)
    model = build_sam_model(model_type, img_size, depth, hidden)
    load_state(model, state, str(path))
    return model


def load_state(model: Sam, state: StateDict, source: str) -> None:
    """Load a state dict with original names into `model`, strictly.

    Gates of Squeeze-and-Excitation may be missing: at their start values they change nothing.
    Raises ConfigError that lists every missing, unexpected or wrongly shaped key.
    """
    own = model.state_dict()
    new = from_original(model, state)
    new |= {key: own[key] for key in own if ".se." in key and key not in new}
    missing = sorted(set(own) - set(new))
    unexpected = sorted(set(new) - set(own))
    misshapen = [
        f"{key} is {tuple(new[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(set(own) & set(new))
        if own[key].shape != new[key].shape
    ]
    problems = [
        f"{what}: {', '.join(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong shape", misshapen),
        )
        if keys
    ]
    if problems:
        raise ConfigError(f"{source}: the weights do not fit the model; {'; '.join(problems)}")
    model.load_state_dict(new)


def to_original(model: Sam) -> StateDict:
    """The model's weights under the names of the original code, complete for a strict load."""
    rules = _rules(model)
    state = {_rename(key, rules): value.detach().cpu() for key, value in model.state_dict().items()}
    if isinstance(model.image_encoder, TinyViTEncoder):
        width = state["image_encoder.neck.0.weight"].shape[1]
        state |= {
            "image_encoder.norm_head.weight": torch.ones(width),
            "image_encoder.norm_head.bias": torch.zeros(width),
            "image_encoder.head.weight": torch.zeros(1000, width),
            "image_encoder.head.bias": torch.zeros(1000),
        }
    return state


def from_original(model: Sam, state: StateDict) -> StateDict:
    """`state` under our names, without what the original carries along unused."""
    rules = [(original, ours) for ours, original in _rules(model)]
    return {_rename(key, rules): value for key, value in state.items() if not _UNUSED.search(key)}


# Pairs of (ours, original), specific ones first; a test shows that the map is invertible.
_TINY_VIT_RULES = (
    ("image_encoder.body.patch_embed.conv1.", "image_encoder.patch_embed.seq.0."),
    ("image_encoder.body.patch_embed.conv2.", "image_encoder.patch_embed.seq.2."),
    # PatchMerging opens a stage in timm and closes the one before in the original.
    ("image_encoder.body.stages.1.downsample.", "image_encoder.layers.0.downsample."),
    ("image_encoder.body.stages.2.downsample.", "image_encoder.layers.1.downsample."),
    ("image_encoder.body.stages.3.downsample.", "image_encoder.layers.2.downsample."),
    ("image_encoder.body.stages.", "image_encoder.layers."),
)
_SAM_VIT_RULES = (
    (".mlp.fc1.", ".mlp.lin1."),
    (".mlp.fc2.", ".mlp.lin2."),
    ("image_encoder.body.", "image_encoder."),
)


def _rules(model: Sam) -> list[tuple[str, str]]:
    rules = {TinyViTEncoder: _TINY_VIT_RULES, SamViTEncoder: _SAM_VIT_RULES}
    return list(rules.get(type(model.image_encoder), ()))


def _rename(key: str, rules: list[tuple[str, str]]) -> str:
    if not key.startswith("image_encoder."):
        return key  # both decoders have the same names
    for old, new in rules:
        if old in key:
            key = key.replace(old, new, 1)
            if old.startswith("image_encoder."):
                break
    return _rename_convolution(key)


def _rename_convolution(key: str) -> str:
    """`conv.weight` after BatchNorm'd convolutions is `c.weight` in the original TinyViT."""
    if ".layers." in key or ".seq." in key:
        return key.replace(".conv.weight", ".c.weight")
    return re.sub(r"\.c\.weight$", ".conv.weight", key)
