"""Settings of runs, resolved from a run's JSON, an overlay and the command line.

Precedence: defaults < the run's JSON < overlay < command line.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from mobile_sam.config.architectures import architecture, stride_16_blocks
from mobile_sam.config.catalog import KNOWN_CHECKPOINTS
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.renames import with_new_names
from mobile_sam.config.run import SHARED_KEYS, RunConfig
from mobile_sam.config.schedule import any_distillation, normalise
from mobile_sam.config.sweep import Combination, variant_names
from mobile_sam.config.teachers import (
    random_number,
    start_reference,
    teacher_configs,
    teacher_key,
)
from mobile_sam.config.variants import (
    check_stop,
    has_variants,
    variant_combinations,
    with_combination,
    with_layer,
)
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.package_data import CONFIG_DIR
from mobile_sam.system.paths import existing_file, read_text

DEFAULT_RUN, DEFAULT_OVERLAY = "distill_then_finetune", "demo"
_MOST_SCALE = 4  # between a tile and the model frame
Weights = tuple[str, str | None]  # checkpoint and model_type of a teacher


@dataclass(frozen=True)
class Variants:
    """Variants of a run with `sweep`, `replicates` or `folds`.

    values: for the name of each variant, its values of the keys that differ between variants.
    """

    config: RunConfig
    values: dict[str, Combination]


@dataclass(frozen=True)
class Runs:
    """All runs of one workflow, teachers before the runs that use them.

    named: those that the command names, with each variant in place of a run that has variants.
    """

    all: tuple[RunConfig, ...]
    named: tuple[RunConfig, ...]
    variants: tuple[Variants, ...] = ()

    @property
    def alone(self) -> tuple[RunConfig, ...]:
        """Return the named runs that are no variants."""
        names = {name for group in self.variants for name in group.values}
        return tuple(config for config in self.named if config.run_name not in names)

    def __getitem__(self, run_name: str) -> RunConfig:
        return next(config for config in self.all if config.run_name == run_name)


def resolve(names: object, overlay: str | None, overrides: Mapping[str, Any]) -> Runs:
    """Return the settings of the runs in the comma-separated list `names`, and of their teachers.

    names: runs of `configs/`, or paths of JSON files. Snakemake parses a name that looks like a
    number as a number, which is an error.
    overlay: name of a file in `configs/overlays/`, or None.
    overrides: keys from the command line; those of SHARED_KEYS also apply to teacher runs.
    Raises ConfigError in one line that names file, entry and key.
    """
    names = _names_as_text(names)
    overrides = {key: _parse_value(value) for key, value in overrides.items()}
    if "sweep" in overrides:
        overrides["sweep"] = _parse_leaves(overrides["sweep"])
    overrides = with_new_names(overrides, "--config")
    _check_texts(overrides)
    shared = {key: value for key, value in overrides.items() if key in SHARED_KEYS}
    requested = [name.strip() for name in names.split(",") if name.strip()]
    if not requested:
        raise ConfigError(f"run: no run is given; known runs: {', '.join(known_runs())}")
    resolved: dict[str, RunConfig] = {}
    compared: dict[str, None] = {}  # runs in `compare` of the requested runs

    def load(name: str) -> RunConfig:
        config = _load(name, overlay, overrides if name in requested else shared)
        if has_variants(config):
            raise ConfigError(
                f"run:{name}: the run has variants, and none of them is meant; name a run without "
                "sweep, replicates and folds"
            )
        return config

    def compared_weights(weights: str) -> str:
        if not weights.startswith("run:"):
            return weights
        compared[weights.removeprefix("run:")] = None
        return f"run:{load(weights.removeprefix('run:')).run_name}"

    def visit(name: str, students: tuple[str, ...] = ()) -> RunConfig:
        if name in students:
            raise ConfigError(f"{' -> '.join([*students, name])}: a run cannot need itself")
        return complete(load(name), name, students)

    def complete(config: RunConfig, name: str, students: tuple[str, ...]) -> RunConfig:
        def teacher_of_run(number: int, checkpoint: str, model_type: str | None) -> Weights:
            if not checkpoint.startswith("run:"):
                return checkpoint, model_type
            teacher = visit(checkpoint.removeprefix("run:"), (*students, name))
            return f"run:{teacher.run_name}", teacher.model_type

        config = _with_teachers(config, teacher_of_run)
        check_teachers(config)
        start, stage = start_reference(config)
        if start is not None:
            before = visit(start, (*students, name))
            _check_same_architecture(config, before)
            reference = f"run:{before.run_name}" + (stage and f":{stage_named(before, stage)}")
            config = config.model_copy(update={"checkpoint": reference})
        if name in requested:
            weights = tuple(map(compared_weights, config.compare))
            config = config.model_copy(update={"compare": weights})
        if resolved.setdefault(config.run_name, config) != config:
            raise ConfigError(
                f"run_name: {config.run_name!r} is the name of two different runs; rename one"
            )
        return config

    named: list[RunConfig] = []
    groups: list[Variants] = []
    for name in dict.fromkeys(requested):
        merged, source = _merged(name, overlay, overrides)
        configs, variants = _with_variants(merged, source)
        named += (complete(config, name, ()) for config in configs)
        groups += [variants] if variants else []
    for name in compared:
        visit(name)
    _check_unlabelled(tuple(resolved.values()), "unlabelled_img_dir" in shared)
    _check_tiles(tuple(resolved.values()))
    return Runs(tuple(resolved.values()), tuple(named), tuple(groups))


def load_settings(path: Path) -> RunConfig:
    """Return the settings in `path`: a resolved `run.json`, or a run's own JSON without overlay."""
    config = _load(path, None, {})
    if has_variants(config):
        raise ConfigError(
            f"{path}: the run stands for its variants (sweep, replicates, folds), which the "
            "workflow trains; give the run.json of one of them"
        )
    if any(teacher.teacher_model_type is None for teacher in teacher_configs(config)):
        return resolve(str(path), None, {}).named[0]
    return config


def _check_unlabelled(configs: tuple[RunConfig, ...], given: bool) -> None:
    """Raise ConfigError for images without masks that no stage uses.

    given: whether they come from the command line. Then they apply to all runs, and one run must
    distil; otherwise each run with such images must.
    """
    affected = [config for config in configs if config.unlabelled_img_dir is not None]
    idle = [c for c in affected if not any(stage.distillation for stage in normalise(c))]
    if idle and (not given or len(idle) == len(configs)):
        raise ConfigError(
            f"run {idle[-1].run_name!r}: unlabelled_img_dir: {idle[-1].unlabelled_img_dir!r}, but "
            "no stage distils, and only distillation uses images without masks; set distillation "
            "of a stage to true, or unlabelled_img_dir to null"
        )


def _check_tiles(configs: tuple[RunConfig, ...]) -> None:
    """Raise ConfigError for tiles that would be resized by a large factor for their model."""
    for config in configs:
        tile, size = config.data.tile, config.img_size
        if tile is not None and not 1 / _MOST_SCALE <= tile.size / size <= _MOST_SCALE:
            raise ConfigError(
                f"run {config.run_name!r}: data.tile.size: {tile.size} is more than {_MOST_SCALE} "
                f"times larger or smaller than img_size, {size}, to which tiles are resized; "
                "choose a size closer to it"
            )


def stage_named(config: RunConfig, name: str) -> str:
    """Return the directory of the stage with a name, or with this directory."""
    stages = normalise(config)
    found = [stage.directory for stage in stages if name in {stage.name, stage.directory}]
    if len(found) != 1:
        raise ConfigError(
            f"checkpoint: 'run:{config.run_name}:{name}': the run has {len(found)} stages of this "
            f"name; its stages are {', '.join(stage.directory for stage in stages)}"
        )
    return found[0]


def _check_same_architecture(config: RunConfig, start: RunConfig) -> None:
    """Raise ConfigError for a run whose weights do not fit a run that starts from them."""
    for key in ("model_type", "iou_head_depth", "iou_head_hidden_dim"):
        own, other = getattr(config, key), getattr(start, key)
        if own != other:
            raise ConfigError(
                f"run {config.run_name!r}: checkpoint: 'run:{start.run_name}' has the {key} "
                f"{other!r}, and this run {own!r}; give both runs the same"
            )


def check_teachers(config: RunConfig) -> None:
    """Raise ConfigError for a teacher that does not fit the student, or that is given twice."""
    seen: dict[tuple[object, ...], int] = {}
    for number, teacher in enumerate(teacher_configs(config)):
        if teacher.teacher_model_type is None:
            continue  # the run of this teacher is not loaded yet
        _check_teacher(teacher, number)
        identity = teacher.teacher_checkpoint, teacher.teacher_model_type, teacher.distill_levels
        if identity in seen:
            raise ConfigError(
                f"run {config.run_name!r}: {teacher_key(number, 'checkpoint')}: "
                f"{teacher.teacher_checkpoint!r} at this level repeats "
                f"{teacher_key(seen[identity], 'checkpoint')}; remove one of them"
            )
        seen[identity] = number


def _check_teacher(config: RunConfig, number: int) -> None:
    """Check a run with one teacher, which is number `number` of the original run."""
    name = config.teacher_model_type or ""
    student, teacher = map(architecture, (config.model_type, name))
    levels, source = config.distill_levels, f"run {config.run_name!r}"
    from_neck = "neck" in levels and any_distillation(config)
    needs_same_width = config.decoder_from_teacher or from_neck
    if needs_same_width and student["embed_dim"] != teacher["embed_dim"]:
        raise ConfigError(
            f"{source}: {teacher_key(number, 'model_type')}: {name!r} has embeddings of "
            f"{teacher['embed_dim']} channels, model_type {config.model_type!r} of "
            f"{student['embed_dim']}; choose architectures of equal embed_dim"
        )
    blocks = stride_16_blocks(name)
    for level in levels:
        if level == "neck" or level in blocks:
            continue
        choices = f"one of {blocks[0]} to {blocks[-1]}, or 'neck'" if blocks else "'neck'"
        raise ConfigError(
            f"{source}: {teacher_key(number, 'feature_level')}: {name!r} has no block {level} of "
            f"stride 16; give {choices}"
        )


def known_runs() -> list[str]:
    """Return the names of the runs in `configs/`."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.json") if path.stem != "schema")


def known_overlays() -> list[str]:
    """Return the names of the overlays in `configs/overlays/`."""
    return sorted(path.stem for path in (CONFIG_DIR / "overlays").glob("*.json"))


def _load(name: str | Path, overlay: str | None, overrides: dict[str, Any]) -> RunConfig:
    return _parse(*_merged(name, overlay, overrides))


def _parse(merged: dict[str, Any], source: str) -> RunConfig:
    """Return validated settings. Raises ConfigError."""
    config = _with_teachers(parse_config(merged, source), partial(_known_architecture, source))
    normalise(config, source)
    check_teachers(config)
    return config


def _with_variants(merged: dict[str, Any], source: str) -> tuple[list[RunConfig], Variants | None]:
    """Return the run with these settings, or its variants. Raises ConfigError that names one."""
    config = _parse(merged, source)
    if not has_variants(config):
        return [config], None
    combinations = variant_combinations(config)
    values: dict[str, Combination] = {}
    configs: dict[str, RunConfig] = {}  # by their settings without the name
    for name, combination in zip(variant_names(combinations), combinations, strict=True):
        run_name = f"{config.run_name}-{name}"
        where = f"{source}: variant {run_name}"
        if run_name in values:
            raise ConfigError(f"{where}: two variants have this name; give values that differ more")
        settings = merged | {"run_name": run_name}
        variant = _parse(with_combination(settings, combination, where), where)
        other = configs.setdefault(variant.model_dump_json(exclude={"run_name"}), variant)
        if other is not variant:
            raise ConfigError(
                f"{where}: has the same settings as {other.run_name}, because parts that a value "
                "leaves out have their defaults; give all parts of the values, or remove one"
            )
        values[run_name] = combination
    variants = list(configs.values())
    check_stop(config, {each.run_name: each for each in variants}, values, source)
    return variants, Variants(config, values)


def _merged(
    name: str | Path, overlay: str | None, overrides: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Return the settings of a run from its layers, and the names of the layers."""
    path = _settings_file(name)
    settings = {"run_name": path.stem} | with_new_names(_read_object(path), str(path))
    layers = [(str(path), settings)]
    if overlay is not None:
        layers += _overlay_layers(overlay, path.stem, settings["run_name"])
    layers.append(("--config", overrides))
    merged: dict[str, Any] = {}
    for source, layer in layers:
        merged = with_layer(merged, layer, source)
    return merged, " + ".join(source for source, layer in layers if layer)


def _settings_file(name: str | Path) -> Path:
    """Return the file of a run, given by name, as a `Path`, or as text that ends with .json."""
    if isinstance(name, Path) or name.endswith(".json"):
        return existing_file(Path(name))
    if name in known_runs():
        return CONFIG_DIR / f"{name}.json"
    raise ConfigError(
        f"run: {name!r} is unknown; known runs: {', '.join(known_runs())}; give the path of "
        f"your own run, such as configs/{name}.json"
    )


def _names_as_text(names: object) -> str:
    """Return the names of runs. Raises ConfigError for a number."""
    if isinstance(names, str):
        return names
    raise ConfigError(
        f"run: Snakemake reads this name as {_kind(names)}; give the path of the run's file "
        "instead, as in run=configs/2024_06.json"
    )


def _check_texts(overrides: Mapping[str, Any]) -> None:
    """Raise ConfigError for a number if the setting is text, such as `run_name=2024_06`."""
    for key, value in overrides.items():
        field = RunConfig.model_fields.get(key)
        types = set(get_args(field.annotation) or [field.annotation]) if field else set()
        types = {(get_args(kind) or [kind])[0] for kind in types}  # Annotated[str, ...] to str
        if isinstance(value, int | float) and types and types <= {str, NoneType}:
            is_path = "_dir" in key or key.endswith("checkpoint") or key == "detections"
            hint = f"{key}=./2023_11" if is_path else f"{key}=run_2024, or set it in the run's file"
            raise ConfigError(
                f"--config: {key}: Snakemake reads this value as {_kind(value)}, but it must be "
                f"text; write {hint}"
            )


def _kind(value: object) -> str:
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else "value"
    return f"the {kind} {value}"


def _known_architecture(
    source: str, number: int, checkpoint: str, model_type: str | None
) -> Weights:
    """Return a teacher with the architecture of its known name.

    The architecture of a run's weights is unknown until that run is loaded.
    """
    if model_type is None and checkpoint in KNOWN_CHECKPOINTS:
        return checkpoint, KNOWN_CHECKPOINTS[checkpoint].model_type
    if model_type is None and not checkpoint.startswith("run:"):
        kind = "a path" if random_number(checkpoint) is None else "not a known model"
        raise ConfigError(
            f"{source}: {teacher_key(number, 'checkpoint')}: {checkpoint!r} is {kind}; "
            f"set {teacher_key(number, 'model_type')} to its architecture"
        )
    return checkpoint, model_type


def _with_teachers(
    config: RunConfig, change: Callable[[int, str, str | None], Weights]
) -> RunConfig:
    """Return the run with changed weights of its teachers.

    change: returns the new (checkpoint, model_type) for a teacher's number and current values.
    """
    if config.teacher_checkpoint is None:
        return config
    checkpoint, model_type = change(0, config.teacher_checkpoint, config.teacher_model_type)
    extra = []
    for number, teacher in enumerate(config.extra_teachers, start=1):
        name, architecture_of = change(number, teacher.checkpoint, teacher.model_type)
        extra.append(teacher.model_copy(update={"checkpoint": name, "model_type": architecture_of}))
    return config.model_copy(
        update={
            "teacher_checkpoint": checkpoint,
            "teacher_model_type": model_type,
            "extra_teachers": tuple(extra),
        }
    )


def _overlay_layers(overlay: str, stem: str, run_name: str) -> list[tuple[str, dict[str, Any]]]:
    path = CONFIG_DIR / "overlays" / f"{overlay}.json"
    if overlay not in known_overlays():
        raise ConfigError(
            f"overlay: {overlay!r} is unknown; known overlays: {', '.join(known_overlays())}"
        )
    content = _read_object(path)
    unknown = set(content) - {"settings", "runs"}
    if unknown:
        raise ConfigError(f"{path}: unknown key {min(unknown)!r}; give 'settings' and 'runs' only")
    run_settings = with_new_names(content.get("runs", {}).get(stem, {}), str(path))
    settings = with_new_names(content["settings"], str(path))
    settings |= {"run_name": f"{run_name}-{overlay}"}
    return [(f"overlay {overlay}", settings), (f"overlay {overlay}, runs.{stem}", run_settings)]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the file must hold one JSON object")
    return content


def _parse_leaves(value: Any) -> Any:
    """Parse the values in lists and objects: Snakemake passes numbers in them as text."""
    if isinstance(value, dict):
        return {key: _parse_leaves(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_parse_leaves(each) for each in value]
    return _parse_value(value)


def _parse_value(value: Any) -> Any:
    """Parse a value of the command line: Snakemake passes `null` and JSON as text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value
