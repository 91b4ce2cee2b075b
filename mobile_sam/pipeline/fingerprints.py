"""Fingerprints of data sets and settings, by which Snakemake detects changes."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from mobile_sam.config.catalog import known_dataset
from mobile_sam.config.checkpoints import BOX_FILLED, START, TABLE_VERSION, extra_weights
from mobile_sam.config.renames import with_old_names
from mobile_sam.config.run import RunConfig
from mobile_sam.config.teachers import named_teachers
from mobile_sam.paths import RunPaths
from mobile_sam.system.directories import (
    COLOUR_NAMES,
    DATA_YAML,
    OUTPUT_MARK,
    is_data_name,
    is_output,
    naming_files,
)
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.paths import path_message

_SHOWN_LINKS = 20
_PROTOCOL_KEYS = (
    "mask_threshold",
    "thresholds",
    "protocols",
    "automatic_images",
    "automatic_points",
    "detections",
)
# At their defaults, tables from before these keys existed stay valid.
_LATER_PROTOCOL_KEYS = {"click_objects"}
_COST_KEYS = ("model_type", "img_size", "iou_head_depth", "iou_head_hidden_dim")
_fingerprints: dict[Path, str] = {}  # of data sets, in this process


def fingerprint(config: RunConfig) -> str:
    """Return a digest of names, sizes and times of all image and mask files.

    Directories themselves do not count, nor do hidden files, system files, and files below an
    output directory of this package. Synthetic data and known data sets have a constant part,
    because their content is known. With `data.revision` no file is examined, because that takes
    minutes for millions of files.
    Raises ConfigError for links to themselves, and for more than `data.max_broken` broken links.
    """
    if config.data.revision is not None:
        return f"version {config.data.revision}"
    sources, known = RunPaths(config).sources, _known_content(config)
    if known:
        places = [*sources.get("unlabelled", ())]
        if not places:
            return known
    else:
        places = [place for pair in sources.values() for place in dict.fromkeys(pair)]
        selections = (config.data.subset, config.data.groups_file)
        places += [Path(file) for file in selections if file is not None]
    digest = hashlib.sha256(known.encode())
    broken: list[str] = []
    for place in places:
        for line in listing(place, broken):
            digest.update(line.encode(errors="surrogateescape"))
        for path in naming_files(place, (*DATA_YAML, COLOUR_NAMES)):
            digest.update("".join(listing(path, broken)).encode())
    if len(broken) > config.data.max_broken:
        more = f"\n... and {len(broken) - _SHOWN_LINKS} more" if len(broken) > _SHOWN_LINKS else ""
        raise ConfigError("\n".join(broken[:_SHOWN_LINKS]) + more)
    return digest.hexdigest()[:16]


def keep_fingerprint(config: RunConfig) -> None:
    """Store the fingerprint of a data set for `fingerprint_once`."""
    _fingerprints[RunPaths(config).dataset] = fingerprint(config)


def fingerprint_once(config: RunConfig) -> str:
    """Return the fingerprint that `check_inputs` stored in this process, or compute it."""
    stored = _fingerprints.get(RunPaths(config).dataset)
    return fingerprint(config) if stored is None else stored


def _known_content(config: RunConfig) -> str:
    """Return the fingerprint of images and masks with known content; empty for others."""
    if config.train_img_dir is None:
        return RunPaths(config).dataset.name
    dataset = known_dataset(config)
    return "" if dataset is None else dataset.sha256


def listing(place: Path, broken: list[str]) -> Iterator[str]:
    """Yield a line for a file, or for each data file below a directory, sorted by name.

    Directories have no line, and neither have entries that `list_directory` skips.
    broken: list to which a message for each broken link is added; the line of a link names its
        target.
    Raises ConfigError for a link to a directory above it, and for unreadable files.
    """
    try:
        if place.is_dir():
            yield from _below(place, "", (), broken)
        else:
            yield _line("", place.stat())
    except OSError as error:
        path = error.filename or place
        message = path_message(error.errno or 0, path)
        if message is None:
            raise
        raise ConfigError(f"{path}: {message}") from error


def _below(
    directory: Path, prefix: str, above: tuple[str, ...], broken: list[str]
) -> Iterator[str]:
    real = os.path.realpath(directory)
    # A link to any directory above it, also to one that is not listed, would be listed endlessly.
    inside = above and Path(above[-1]).is_relative_to(real)
    if inside or real in above:
        raise ConfigError(f"{directory}: the link leads to a directory above it; remove the link")
    with os.scandir(directory) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        path, name = Path(entry.path), f"{prefix}{entry.name}"
        if not is_data_name(entry.name) or entry.name == OUTPUT_MARK:
            continue
        if entry.is_dir():
            if not is_output(path):
                yield from _below(path, f"{name}/", (*above, real), broken)
        elif entry.is_symlink() and not path.exists():
            target = path.readlink()
            broken.append(
                f"{path}: the link leads to {target}, which does not exist; fetch the file, or "
                "remove the link"
            )
            yield f"{name} -> {target}\n"
        else:
            yield _line(name, entry.stat())


def _line(name: str, stat: os.stat_result) -> str:
    return f"{name} {stat.st_size} {stat.st_mtime_ns}\n"


def validation_settings(config: RunConfig, checkpoint: str) -> str:
    """Return the settings that the validation of `checkpoint` depends on, as sorted JSON.

    checkpoint: its name in tables.
    """
    teachers = named_teachers(config)
    keys = set(_PROTOCOL_KEYS) if checkpoint != BOX_FILLED else set()
    if checkpoint == START:
        model = {"model_type", "img_size", "seed", "iou_head_depth", "iou_head_hidden_dim"}
        keys |= model | {"checkpoint", "decoder_from_teacher"}
    if checkpoint in teachers:
        config = teachers[checkpoint]
        keys |= {"teacher_checkpoint", "teacher_model_type", "img_size", "seed"}
    if checkpoint in extra_weights(config):
        keys.add("img_size")
    settings = {key: getattr(config, key) for key in keys}
    if checkpoint != BOX_FILLED:
        settings |= config.model_dump(include=_LATER_PROTOCOL_KEYS, exclude_defaults=True)
    return json.dumps(settings | {"table_version": TABLE_VERSION}, sort_keys=True)


def student_size(config: RunConfig) -> tuple[object, ...]:
    """Return the settings that latency and memory of the student depend on."""
    return tuple(getattr(config, key) for key in _COST_KEYS)


def cost_settings(config: RunConfig) -> str:
    """Return the settings that the cost of a run's models depends on, as sorted JSON."""
    settings = {key: getattr(config, key) for key in (*_COST_KEYS, "benchmark_repeats", "compare")}
    teachers = {name: t.teacher_model_type for name, t in named_teachers(config).items()}
    return json.dumps(with_old_names(settings) | {"teachers": teachers}, sort_keys=True)
