"""Old names of settings, which are still read, with a warning, and which digests of results use."""

import logging
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from mobile_sam.system.errors import ConfigError

log = logging.getLogger(__name__)

# Old name and new name. A dot separates a key from its part; `stage_schedule` stands for each of
# its entries.
RENAMED = {
    "clicks": "click_target",
    "stage_schedule.clicks": "stage_schedule.click_target",
    "teacher": "teacher_features",
    "prompts_per_pass": "decoder_chunk_size",
    "cost_repeats": "benchmark_repeats",
    "more_teachers": "extra_teachers",
    "data.version": "data.revision",
}
_NEW_NAMES = {old.rpartition(".")[2]: new.rpartition(".")[2] for old, new in RENAMED.items()}
_OLD_NAMES = {new: old for old, new in _NEW_NAMES.items()}


def with_new_names(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return settings under their new names, and log one warning that lists the old names.

    source: the file or option that the settings come from, for messages.
    Raises ConfigError for a setting that is given under both names.
    """
    result = deepcopy(dict(settings))
    renamed = {}
    for old, new in RENAMED.items():
        parent, _, old_name = old.rpartition(".")
        for prefix, part in _parts(result, parent):
            if old_name in part:
                new_name = new.rpartition(".")[2]
                _refuse_both(part, prefix + old_name, prefix + new_name, source)
                part[new_name] = part.pop(old_name)
                renamed[old] = new
    if _share_to_fraction(result, source):
        renamed["warmup_steps below 1"] = "warmup_fraction"
    if renamed:
        _warn(source, ", ".join(f"{old} is now {new}" for old, new in renamed.items()))
    return result


def with_old_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, or one part of them, as they enter digests of results.

    Digests keep the old names, so that results from before a key was renamed stay valid.
    """
    result = {_OLD_NAMES.get(key, key): value for key, value in settings.items()}
    if "warmup_fraction" in result:
        fraction, steps = result.pop("warmup_fraction"), result["warmup_steps"]
        result["warmup_steps"] = fraction if steps is None else float(steps)
    return result


def new_name(key: str) -> str:
    """Return the current name of a key of a digest."""
    return _NEW_NAMES.get(key, key)


def _parts(settings: dict[str, Any], parent: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the mappings that may contain a key, each with the prefix of the key in messages."""
    value = settings.get(parent) if parent else settings
    if isinstance(value, dict):
        yield f"{parent}." if parent else "", value
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            if isinstance(entry, dict):
                yield f"{parent}[{number}].", entry


def _share_to_fraction(settings: dict[str, Any], source: str) -> bool:
    """Move a share in `warmup_steps` to `warmup_fraction`; return whether there was one.

    The two exclude each other: setting one of them in an overlay or on the command line makes the
    other one null.
    """
    steps = settings.get("warmup_steps")
    is_share = isinstance(steps, float) and 0 < steps < 1
    if is_share:
        if settings.get("warmup_fraction") is not None:
            _refuse_both(settings, "warmup_steps", "warmup_fraction", source)
        settings |= {"warmup_steps": None, "warmup_fraction": steps}
    for one, other in (("warmup_steps", "warmup_fraction"), ("warmup_fraction", "warmup_steps")):
        if settings.get(one) is not None:
            settings.setdefault(other, None)
    return is_share


def _refuse_both(part: Mapping[str, Any], old: str, new: str, source: str) -> None:
    if new.rpartition(".")[2] in part:
        raise ConfigError(
            f"{source}: {old} is the old name of {new}, and both are given; remove {old}"
        )


@cache
def _warn(source: str, names: str) -> None:
    """Log the warning once in a process: a file is read several times."""
    log.warning("%s: some settings have new names: %s; the old names still work", source, names)
