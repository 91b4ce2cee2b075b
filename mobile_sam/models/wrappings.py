"""State dicts without the wrappings of trainers, under the names of the original code.

Wrappers are those of MedSAM, micro-sam and Lightning, prefixes those of DistributedDataParallel,
`torch.compile` and modules that hold a SAM, other names those of Hugging Face's `SamModel`.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobile_sam.models.hugging_face import is_hugging_face, original_names
from mobile_sam.system.errors import ConfigError

log = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")
WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict")
# How the `format` of this package's own checkpoints begins.
OWN_CHECKPOINT = "mobile_sam checkpoint"
_DEEPEST = 4  # wrappers in each other; a pickle may hold itself
_PART = re.compile(
    r"((?:[^.]+\.)*?)"
    r"(?:image_encoder|vision_encoder|prompt_encoder|mask_decoder|shared_image_embedding)\."
)
# Segments that `torch.compile` and DistributedDataParallel of one part put inside of names.
_INSIDE = re.compile(r"\.(?:_orig_mod|module)(?=\.)")
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
_NAMED = 4  # examples in a message


def plain_state(content: Any, path: Path) -> StateDict:
    """Return the state dict in the content of a file, under names of the original code.

    Logs what was unwrapped, removed, left out and converted.
    Raises ConfigError, with what the file holds, for anything that is no state dict of a SAM or of
    a part of one, that is ambiguous, or whose tensors hold no floating-point numbers.
    """
    done: list[str] = []
    state = _unwrapped(content, path, done)
    state = _without_prefix(state, path, done)
    if is_hugging_face(state):
        state = _renamed(state, original_names(state), path)
        done.append("converted Hugging Face's names")
    for key, value in state.items():
        problem = _problem(key, value)
        if problem:
            raise ConfigError(
                f"{path}: {shown(key)} {problem}; give weights of floating-point numbers, as they "
                "were before a quantisation"
            )
    if done:
        log.info("%s: %s", path, ", ".join(done))
    return state


def describe(state: Mapping[str, Tensor]) -> str:
    """Describe how many tensors belong to each part of a SAM, and name some of the others."""
    counts = Counter(key.split(".")[0] for key in state)
    kinds = [f"{counts[part]} of {part}" for part in PARTS if counts[part]]
    others = [key for key in state if key.split(".")[0] not in PARTS]
    if others:
        kinds.append(f"{len(others)} others ({some(others)})")
    return f"{len(state)} tensors: {', '.join(kinds)}"


def shown(text: str) -> str:
    """Return the text of a file as it can be printed: one short line without control characters."""
    text = text if len(text) <= 120 else f"{text[:117]}..."
    return text if text.isprintable() else ascii(text)[1:-1]


def _unwrapped(content: Any, path: Path, done: list[str]) -> StateDict:
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping) or _is_state(content):
            break
        if str(content.get("format")).startswith(OWN_CHECKPOINT):
            raise ConfigError(f"{path}: {_of_checkpoint(path)}")
        found = [key for key in WRAPPERS if _may_hold_state(content.get(key))]
        if len(found) > 1:
            raise ConfigError(
                f"{path}: there are weights under {found[0]!r} and {found[1]!r}; save those to "
                "use in a file of their own"
            )
        if not found:
            break
        left = [str(key) for key in content if key != found[0]]
        done.append(f"unwrapped {found[0]!r}" + (f" (left out {some(left)})" if left else ""))
        content = content[found[0]]
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


def _of_checkpoint(path: Path) -> str:
    """Describe a checkpoint or resume state of a stage, and where its weights may be."""
    beside = (directory / "weights.pt" for directory in path.absolute().parents[:4])
    found = next((weights for weights in beside if weights.is_file()), None)
    give = "the weights.pt of the run, which `export` writes" if found is None else str(found)
    return f"not a weights file; it is a checkpoint of a stage of this package. Give {give}"


def _contents(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "an empty dict"
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    kinds = [f"{key} ({_kind(value)})" for key, value in content.items()]
    return f"a dict of {len(content)} entries, {tensors} of them tensors: {some(kinds)}"


def _kind(value: Any) -> str:
    if not isinstance(value, Mapping):
        return type(value).__name__
    tensors = sum(isinstance(one, Tensor) for one in value.values())
    return f"dict with {tensors} tensors"


def _without_prefix(state: StateDict, path: Path, done: list[str]) -> StateDict:
    """Remove what precedes the parts of a SAM in every name."""
    if _COUNTER in state:
        done.append(f"left out {_COUNTER!r}")
        state = {key: value for key, value in state.items() if key != _COUNTER}
    found = {key: _PART.match(key) for key in state}
    outside = [key for key, match in found.items() if match is None]
    prefixes = Counter(match[1] for match in found.values() if match is not None)
    if not prefixes:
        raise ConfigError(
            f"{path}: no weights of a SAM: of its {len(state)} tensors ({some(outside)}) none is "
            f"of {', '.join(PARTS)}"
        )
    prefix = next(iter(prefixes))
    if len(prefixes) > 1 or (prefix and outside):
        raise ConfigError(f"{path}: {_mixed(prefixes, outside)}")
    if prefix:
        done.append(f"removed the prefix {shown(prefix)!r}")
    names = {key: _INSIDE.sub("", key.removeprefix(prefix)) for key in state}
    if any(prefix + name != key for key, name in names.items()):
        done.append("removed '_orig_mod.' or 'module.' inside of names")
    return _renamed(state, names, path)


def _mixed(prefixes: Counter[str], outside: list[str]) -> str:
    counts = [
        f"{count} begin with {shown(prefix)!r}" if prefix else f"{count} have no prefix"
        for prefix, count in prefixes.most_common(_NAMED)
    ]
    if outside:
        counts.append(f"{len(outside)} are of no part of a SAM ({some(outside)})")
    prefix = prefixes.most_common(1)[0][0]
    return (
        f"its tensors differ in their prefix: {', '.join(counts)}. Save those of one model alone: "
        f"torch.save({{k.removeprefix({shown(prefix)!r}): v for k, v in state.items() if "
        f"k.startswith({shown(prefix)!r})}}, 'weights.pt')"
    )


def _renamed(state: StateDict, names: Mapping[str, str], path: Path) -> StateDict:
    """Return `state` under other names; two tensors may get the same one only if they are equal."""
    new: StateDict = {}
    for key, value in state.items():
        other = new.setdefault(names[key], value)
        if other is not value and not (other.dtype == value.dtype and torch.equal(other, value)):
            raise ConfigError(
                f"{path}: two different tensors are {shown(names[key])}, one of them under the "
                f"name {shown(key)}; save those of one model alone"
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


def some(names: Sequence[str], number: int = _NAMED) -> str:
    """Return the first names as they can be printed, and how many more there are."""
    more = f", and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(shown(name) for name in names[:number]) + more
