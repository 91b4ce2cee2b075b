"""Removal of wrappers and prefixes from state dicts, and conversion to original names.

Wrappers are those of MedSAM, micro-sam and Lightning; prefixes those of DistributedDataParallel,
`torch.compile` and modules that contain a SAM; other names those of Hugging Face's `SamModel`.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobile_sam.models.original_names import from_hugging_face, is_hugging_face
from mobile_sam.models.sam import PARTS
from mobile_sam.system.errors import ConfigError

log = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict")
# Beginning of the `format` of this package's own checkpoints.
OWN_CHECKPOINT = "mobile_sam checkpoint"
_MAX_DEPTH = 4  # nested wrappers; a pickle may contain itself
_PART = re.compile(
    r"((?:[^.]+\.)*?)"
    r"(?:image_encoder|vision_encoder|prompt_encoder|mask_decoder|shared_image_embedding)\."
)
# Inserted into names if `torch.compile` or DistributedDataParallel wraps one part.
_INSIDE = re.compile(r"\.(?:_orig_mod|module)(?=\.)")
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
_EXAMPLES = 4  # names in a message


def plain_state(content: Any, path: Path) -> StateDict:
    """Return the state dict in the content of a file, with names of the original code.

    Logs what was unwrapped, removed, left out and converted.
    Raises ConfigError, with the content of the file, unless it is the state dict of one SAM, or of
    a part of it, with tensors of floating-point numbers.
    """
    done: list[str] = []
    state = _unwrapped(content, path, done)
    state = _without_prefix(state, path, done)
    if is_hugging_face(state):
        state = _renamed(state, from_hugging_face(state), path)
        done.append("converted Hugging Face's names")
    for key, value in state.items():
        problem = _problem(key, value)
        if problem:
            raise ConfigError(
                f"{path}: {printable(key)} {problem}; give floating-point weights, from before "
                "quantisation"
            )
    if done:
        log.info("%s: %s", path, ", ".join(done))
    return state


def describe(state: Mapping[str, Tensor]) -> str:
    """Describe how many tensors belong to each part of a SAM, with names of other tensors."""
    counts = Counter(key.split(".")[0] for key in state)
    kinds = [f"{counts[part]} of {part}" for part in PARTS if counts[part]]
    others = [key for key in state if key.split(".")[0] not in PARTS]
    if others:
        kinds.append(f"{len(others)} others ({list_names(others)})")
    return f"{len(state)} tensors: {', '.join(kinds)}"


def printable(text: str) -> str:
    """Return text from a file as one short line without control characters."""
    text = text if len(text) <= 120 else f"{text[:117]}..."
    return text if text.isprintable() else ascii(text)[1:-1]


def _unwrapped(content: Any, path: Path, done: list[str]) -> StateDict:
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, Mapping) or _is_state(content):
            break
        if str(content.get("format")).startswith(OWN_CHECKPOINT):
            raise ConfigError(f"{path}: {_describe_checkpoint(path)}")
        keys = [key for key in WRAPPERS if _may_hold_state(content.get(key))]
        if len(keys) > 1:
            raise ConfigError(
                f"{path}: there are weights under {keys[0]!r} and {keys[1]!r}; save the ones to "
                "use in a separate file"
            )
        if not keys:
            break
        others = [str(key) for key in content if key != keys[0]]
        left_out = f" (left out {list_names(others)})" if others else ""
        done.append(f"unwrapped {keys[0]!r}{left_out}")
        content = content[keys[0]]
    if _is_state(content):
        return dict(content)
    raise ConfigError(
        f"{path}: not a weights file; it holds {_contents(content)}. A weights file holds a state "
        f"dict of tensors, by itself or under {', '.join(map(repr, WRAPPERS))}, as the weights.pt "
        "of a finished run does"
    )


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def _may_hold_state(content: Any) -> bool:
    return isinstance(content, Mapping) and (
        any(isinstance(value, Tensor) for value in content.values())
        or any(key in content for key in WRAPPERS)
    )


def _describe_checkpoint(path: Path) -> str:
    """Describe a checkpoint or resume state of a stage, and where its weights may be."""
    candidates = (directory / "weights.pt" for directory in path.absolute().parents[:4])
    weights = next((candidate for candidate in candidates if candidate.is_file()), None)
    file = "the weights.pt of the run, which `export` writes" if weights is None else str(weights)
    return f"not a weights file; it is a checkpoint of a stage of this package. Give {file}"


def _contents(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "an empty dict"
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    kinds = [f"{key} ({_kind(value)})" for key, value in content.items()]
    return f"a dict of {len(content)} entries, {tensors} of them tensors: {list_names(kinds)}"


def _kind(value: Any) -> str:
    if not isinstance(value, Mapping):
        return type(value).__name__
    tensors = sum(isinstance(entry, Tensor) for entry in value.values())
    return f"dict with {tensors} tensors"


def _without_prefix(state: StateDict, path: Path, done: list[str]) -> StateDict:
    """Remove what precedes the parts of a SAM in every name."""
    if _COUNTER in state:
        done.append(f"left out {_COUNTER!r}")
        state = {key: value for key, value in state.items() if key != _COUNTER}
    matches = {key: _PART.match(key) for key in state}
    outside = [key for key, match in matches.items() if match is None]
    prefixes = Counter(match[1] for match in matches.values() if match is not None)
    if not prefixes:
        raise ConfigError(
            f"{path}: not the weights of a SAM; none of its {len(state)} tensors "
            f"({list_names(outside)}) belongs to {', '.join(PARTS)}"
        )
    prefix = next(iter(prefixes))
    if len(prefixes) > 1 or (prefix and outside):
        raise ConfigError(f"{path}: {_mixed(prefixes, outside)}")
    if prefix:
        done.append(f"removed the prefix {printable(prefix)!r}")
    names = {key: _INSIDE.sub("", key.removeprefix(prefix)) for key in state}
    if any(prefix + name != key for key, name in names.items()):
        done.append("removed '_orig_mod.' or 'module.' inside of names")
    return _renamed(state, names, path)


def _mixed(prefixes: Counter[str], outside: list[str]) -> str:
    counts = [
        f"{count} begin with {printable(prefix)!r}" if prefix else f"{count} have no prefix"
        for prefix, count in prefixes.most_common(_EXAMPLES)
    ]
    if outside:
        counts.append(f"{len(outside)} belong to no part of a SAM ({list_names(outside)})")
    prefix = prefixes.most_common(1)[0][0]
    return (
        f"its tensors differ in their prefix: {', '.join(counts)}. Save those of one model only: "
        f"torch.save({{k.removeprefix({printable(prefix)!r}): v for k, v in state.items() if "
        f"k.startswith({printable(prefix)!r})}}, 'weights.pt')"
    )


def _renamed(state: StateDict, names: Mapping[str, str], path: Path) -> StateDict:
    """Return `state` with other names; two tensors may get the same name only if they are equal."""
    new: StateDict = {}
    for key, value in state.items():
        other = new.setdefault(names[key], value)
        if other is not value and not (other.dtype == value.dtype and torch.equal(other, value)):
            raise ConfigError(
                f"{path}: two different tensors are {printable(names[key])}, one of them with the "
                f"name {printable(key)}; save those of one model only"
            )
    return new


def _problem(key: str, value: Tensor) -> str | None:
    if value.is_meta:
        return "has a shape and no values (device 'meta')"
    if value.layout != torch.strided:
        return f"is not a dense tensor ({value.layout})"
    counts = value.ndim == 0 or key.endswith("attention_bias_idxs")
    if not value.is_floating_point() and not counts:
        return f"holds {str(value.dtype).removeprefix('torch.')}"
    return None


def list_names(names: Sequence[str], number: int = _EXAMPLES) -> str:
    """Return the first names in printable form, and the number of others."""
    more = f", and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(printable(name) for name in names[:number]) + more
