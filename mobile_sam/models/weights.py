"""Weights as files: safe loading, and the names that the original code gives them.

A state dict has our own (timm's) names in memory and the original names in files, so that files are
interchangeable with the original MobileSAM and SAM code. Both kinds of names are read.
"""

from pathlib import Path

import torch

from mobile_sam.models.original_names import own_state, to_original_name
from mobile_sam.models.sam import PARTS, Sam
from mobile_sam.models.tiny_vit import TinyViTEncoder
from mobile_sam.models.wrappings import StateDict, list_names
from mobile_sam.system.atomic_files import atomic_write
from mobile_sam.system.errors import ConfigError

_LISTED = 20  # names per kind of problem in a message


def load_state(model: Sam, state: StateDict, source: str) -> None:
    """Load a state dict with original names into `model`, strictly.

    Squeeze-and-Excitation gates may be missing; their start values have no effect.
    Raises ConfigError with the first missing, unexpected and wrongly shaped keys and the number of
    others; a part of the model that is completely missing is one entry.
    """
    expected = model.state_dict()
    actual = from_original(model, state)
    actual |= {key: expected[key] for key in expected if ".se." in key and key not in actual}
    misshapen = [
        f"{original_name(model, key)} is {tuple(actual[key].shape)} instead of "
        f"{tuple(expected[key].shape)}"
        for key in sorted(set(expected) & set(actual))
        if expected[key].shape != actual[key].shape
    ]
    problems = [
        f"{kind}: {list_names(keys, _LISTED)}"
        for kind, keys in (
            ("missing", _by_part(model, set(expected) - set(actual), expected)),
            ("unexpected", _by_part(model, set(actual) - set(expected), actual)),
            ("wrong shape", misshapen),
        )
        if keys
    ]
    if problems:
        raise ConfigError(f"{source}: the weights do not fit the model; {'; '.join(problems)}")
    model.load_state_dict(actual)


def _by_part(model: Sam, keys: set[str], state: StateDict) -> list[str]:
    """Return original names of `keys`; a part with all its keys is one entry."""
    entries = []
    for part in PARTS:
        part_keys = {key for key in state if key.startswith(f"{part}.")}
        if len(part_keys) > 1 and part_keys <= keys:
            entries.append(f"all {len(part_keys)} tensors of {part}")
            keys = keys - part_keys
    return entries + sorted(original_name(model, key) for key in keys)


def write_weights(model: Sam, path: Path) -> None:
    """Write the state dict of a model, under original names, through a temporary file."""
    # An open file: given a path, torch writes its name into the file.
    with atomic_write(path) as unfinished, unfinished.open("wb") as file:
        torch.save(to_original(model), file)


def original_name(model: Sam, key: str) -> str:
    """Return the name of a tensor of `model` in the original code."""
    part, _, name = key.partition(".")
    if part != "image_encoder":
        return key
    return f"{part}.{to_original_name(model.image_encoder, name)}"


def to_original(model: Sam) -> StateDict:
    """Return the weights under the names of the original code, complete for a strict load."""
    tensors = model.state_dict().items()
    state = {original_name(model, key): value.detach().cpu() for key, value in tensors}
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
    """Return `state` under our names, without tensors that the original does not use.

    Our names do not change.
    """
    return own_state(model.image_encoder, state)
