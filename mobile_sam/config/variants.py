"""Settings of the variants of a run, from its settings and a combination of values."""

import itertools
from collections.abc import Mapping
from typing import Any

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import DIRECTORY_KEYS, RunConfig
from mobile_sam.config.schedule import canonical, normalise, scale
from mobile_sam.config.sweep import FOLD, RECIPE, Combination, combination_members
from mobile_sam.system.errors import ConfigError

Settings = dict[str, Any]


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
    if "num_epochs" not in layer:
        return settings | layer
    above = settings | layer | {"stage_schedule": [], "sweep_stop": None}
    if settings.get("stage_schedule") and "stage_schedule" not in layer:
        # The schedule must be valid before it is scaled.
        lower = parse_config(settings | {"sweep_stop": None}, source)
        normalise(lower, source)
        new = parse_config(above, source).num_epochs
        schedule = scale(settings["stage_schedule"], lower.num_epochs, new, source)
        layer = layer | {"stage_schedule": schedule}
    if settings.get("sweep_stop") and "sweep_stop" not in layer:
        layer = layer | {"sweep_stop": _scaled_stop(settings, settings | layer, source)}
    return settings | layer


def _scaled_stop(before: Settings, after: Settings, source: str) -> Any:
    """Return `sweep_stop` with its epochs at the same places of the stages as before."""
    stop = before["sweep_stop"]
    epochs = stop.get("epochs") if isinstance(stop, dict) else None
    if not isinstance(epochs, list) or not all(isinstance(epoch, int) for epoch in epochs):
        return stop  # an error, which is found when all layers are merged
    old, new = (
        normalise(parse_config(settings | {"sweep_stop": None}, source), source)
        for settings in (before, after)
    )
    scaled = set()
    for epoch in epochs:
        for was, now in zip(old, new, strict=False):
            if was.start_epoch < epoch <= was.end_epoch:
                part = (epoch - was.start_epoch) / (was.end_epoch - was.start_epoch)
                place = now.start_epoch + max(1, round(part * (now.end_epoch - now.start_epoch)))
                scaled.add(max(1, min(place, new[-1].end_epoch - 1)))
    return stop | {"epochs": sorted(scaled) or epochs}


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
    of_run = {k: v for k, v in combination.items() if k.split(".")[0] in RunConfig.model_fields}
    for key in of_run:
        if key in _FIXED or key.split(".")[0] in _FIXED:
            raise ConfigError(
                f"{source}: sweep: {key!r} cannot differ between variants, which have one project "
                "and the same validation images; make runs of their own"
            )
    # In one layer, so that a schedule is not scaled to the number of epochs beside it.
    settings = with_layer(settings, {k: v for k, v in of_run.items() if "." not in k}, source)
    for key in (key for key in of_run if "." in key):
        first, *rest = key.split(".")
        where = f"{source}: sweep: {key!r}"
        settings = settings | {first: _replaced(settings.get(first), rest, of_run[key], where)}
    return _with_stage_keys(
        settings, {k: v for k, v in combination.items() if k not in of_run}, source
    )


def _with_stage_keys(settings: Settings, values: Combination, source: str) -> Settings:
    """Return settings with the values of keys of stages. Raises ConfigError for another key."""
    if not values:
        return settings
    stages = _entries_of_stages(parse_config(settings, source), settings, source)
    schedule = [dict(entry) for entry in settings.get("stage_schedule", [])]
    for key, value in values.items():
        first, *rest = key.split(".")
        if first not in stages:
            known = ", ".join(sorted(stages)) or "none, because stage_schedule is empty"
            raise ConfigError(
                f"{source}: sweep: {key!r} is neither a key of a run nor a stage with its key; the "
                f"stages are {known}"
            )
        if not rest:
            raise ConfigError(
                f"{source}: sweep: {key!r} is a stage; add a key, {key}.learning_rate"
            )
        where = f"{source}: sweep: {key!r}"
        entry = schedule[stages[first]]
        entry[rest[0]] = _replaced(entry.get(rest[0]), rest[1:], value, where)
    return settings | {"stage_schedule": schedule}


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
        for key in ("val_images", "selection_metric", "objects_per_image"):
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
    """Return the settings that the weights after some epochs depend on, with those of the data."""
    keys = {*DIRECTORY_KEYS, "unlabelled_img_dir", "data", "synthetic"}
    data = config.model_dump_json(include=keys)
    stages = [stage for stage in normalise(config) if stage.start_epoch < epoch]
    return data, *(canonical(config, stage) for stage in stages)


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
