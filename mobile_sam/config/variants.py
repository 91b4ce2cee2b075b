"""Settings of the variants of a run, from its settings and a combination of values."""

import itertools
from collections.abc import Mapping
from typing import Any

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import canonical, normalise, scale
from mobile_sam.config.sweep import RECIPE, Combination, combination_members
from mobile_sam.system.errors import ConfigError

Settings = dict[str, Any]
FOLD = "fold"  # among the values of a variant, number of its fold


def has_variants(config: RunConfig) -> bool:
    """Return whether a run stands for several ones."""
    return config.sweep is not None or config.replicates > 1 or config.folds is not None


def variant_combinations(config: RunConfig) -> list[Combination]:
    """Return the values of each variant: each combination of the sweep, with each seed and fold."""
    combinations = config.sweep.combinations() if config.sweep else [{}]
    seeds: list[Combination] = [{}]
    if config.replicates > 1:
        seeds = [{"seed": config.seed + number} for number in range(config.replicates)]
    folds: list[Combination] = [{FOLD: number} for number in range(config.folds or 0)] or [{}]
    return [a | b | c for a, b, c in itertools.product(combinations, seeds, folds)]


def with_layer(settings: Settings, layer: Settings, source: str) -> Settings:
    """Return settings with those of a layer above them.

    `num_epochs` scales the schedule and the epochs of `sweep_stop` unless the layer has its own.
    source: the layer, for messages.
    """
    scaled = [key for key in ("stage_schedule", "sweep_stop") if settings.get(key)]
    scaled = [key for key in scaled if key not in layer]
    if scaled and "num_epochs" in layer:
        lower = parse_config(settings, source)  # the schedule must be valid before it is scaled
        normalise(lower, source)
        new = parse_config(settings | layer | {"stage_schedule": []}, source).num_epochs
        if "stage_schedule" in scaled:
            schedule = scale(settings["stage_schedule"], lower.num_epochs, new, source)
            layer = layer | {"stage_schedule": schedule}
        if "sweep_stop" in scaled and lower.sweep_stop is not None:
            epochs = {max(1, round(e * new / lower.num_epochs)) for e in lower.sweep_stop.epochs}
            layer = layer | {"sweep_stop": settings["sweep_stop"] | {"epochs": sorted(epochs)}}
    return settings | layer


def with_combination(settings: Settings, combination: Combination, source: str) -> Settings:
    """Return settings with the values of a variant. Raises ConfigError for an unknown key."""
    config = parse_config(settings, source)
    settings = settings | {"sweep": None, "sweep_stop": None, "replicates": 1, "folds": None}
    combination = dict(combination)
    if RECIPE in combination and config.sweep is not None:
        combination |= config.sweep.recipes[combination.pop(RECIPE)]
    if FOLD in combination:
        fold = {"number": combination.pop(FOLD), "of": config.folds}
        settings["data"] = (settings.get("data") or {}) | {"fold": fold}
    stages = _entries_of_stages(config, settings, source)
    of_run = {key: v for key, v in combination.items() if key.split(".")[0] not in stages}
    for key, value in of_run.items():
        first, *rest = key.split(".")
        if key in _FIXED or first in _FIXED:
            raise ConfigError(
                f"{source}: sweep: {key!r} cannot differ between variants, which have one project "
                "and the same validation images; make runs of their own"
            )
        if first not in RunConfig.model_fields:
            known = ", ".join(sorted(stages)) or "none, because stage_schedule is empty"
            raise ConfigError(
                f"{source}: sweep: {key!r} is neither a key of a run nor a stage with its key; the "
                f"stages are {known}"
            )
        layer = {first: _replaced(settings.get(first), rest, value, f"{source}: sweep: {key!r}")}
        settings = with_layer(settings, layer, source)
    schedule = [dict(entry) for entry in settings.get("stage_schedule", [])]
    for key in (key for key in combination if key not in of_run):
        first, *rest = key.split(".")
        if not rest:
            raise ConfigError(
                f"{source}: sweep: {key!r} is a stage; add a key, {key}.learning_rate"
            )
        where = f"{source}: sweep: {key!r}"
        entry = schedule[stages[first]]
        entry[rest[0]] = _replaced(entry.get(rest[0]), rest[1:], combination[key], where)
    return settings | ({"stage_schedule": schedule} if schedule else {})


# The sweep itself, the place of the variants, and what they are validated on.
_FIXED = {
    *(
        "sweep",
        "sweep_stop",
        "replicates",
        "folds",
        "data.fold",
        "run_name",
        "project_name",
        "output_dir",
        "synthetic",
        "protocols",
    ),
    *("val_img_dir", "val_mask_dir", "data.val_fraction", "data.split_seed", "data.groups"),
}


def check_stop(
    config: RunConfig,
    variants: Mapping[str, RunConfig],
    values: Mapping[str, Combination],
    source: str,
) -> None:
    """Raise ConfigError if the combinations cannot be compared at the epochs of `sweep_stop`.

    variants: settings of each variant, by its name. values: its values.
    """
    stop = config.sweep_stop
    if stop is None:
        return
    for name, variant in variants.items():
        if stop.epochs[-1] >= variant.num_epochs:
            raise ConfigError(
                f"{source}: sweep_stop.epochs: {stop.epochs[-1]} is not below num_epochs of "
                f"variant {name}, which is {variant.num_epochs}; leave it out"
            )
        for key in ("val_images", "selection_metric"):
            if getattr(variant, key) != getattr(config, key):
                raise ConfigError(
                    f"{source}: sweep_stop: {key} differs between variants, which would be "
                    f"compared by different measures; remove {key} from sweep"
                )
    members = combination_members(config.run_name, values)
    firsts = [variants[names[0]] for names in members.values()]
    for epoch in stop.epochs:
        if len({_training_until(first, epoch) for first in firsts}) == 1:
            raise ConfigError(
                f"{source}: sweep_stop.epochs: until epoch {epoch}, all combinations are trained "
                "in the same way; give later epochs only, or sweep more values"
            )


def _training_until(config: RunConfig, epoch: int) -> tuple[str, ...]:
    """Return the settings that the weights after some epochs depend on."""
    stages = normalise(config)
    return tuple(canonical(config, stage) for stage in stages if stage.start_epoch < epoch)


def _entries_of_stages(config: RunConfig, settings: Settings, source: str) -> dict[str, int]:
    """Return the position in `stage_schedule` of each stage with an entry, by name and directory.

    Names of two stages are left out, as are those of keys of a run.
    """
    entries = settings.get("stage_schedule") or []
    starts = {entry["start_epoch"]: number for number, entry in enumerate(entries)}
    found: dict[str, int] = {}
    names = [stage.name for stage in normalise(config, source)]
    for stage in normalise(config, source):
        if stage.start_epoch in starts:
            found[stage.directory] = starts[stage.start_epoch]
            if names.count(stage.name) == 1 and stage.name not in RunConfig.model_fields:
                found[stage.name] = starts[stage.start_epoch]
    return found


def _replaced(value: Any, path: list[str], new: Any, where: str) -> Any:
    """Return a setting with a new value at `path` within it, or as a whole if the path is empty."""
    if not path:
        return new
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{where}: the setting has no parts, because it is {value!r}")
    inner = dict(value or {})
    inner[path[0]] = _replaced(inner.get(path[0]), path[1:], new, where)
    return inner
