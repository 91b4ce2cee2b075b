"""Names of the files that `predict` writes, so that it replaces its own files and no others."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from filecmp import cmp
from pathlib import Path
from typing import Any

from mobile_sam.system.directories import OUTPUT_MARK
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.locking import acquire, open_lock


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep other predictions out of a marked directory while the context lasts."""
    with open_lock(directory / OUTPUT_MARK) as mark:
        acquire(fcntl.lockf, mark, fcntl.LOCK_EX)
        yield


def is_prediction_file(entry: Path) -> bool:
    """Return whether `predict` wrote a file: it is a JSON of `predict`, or such a JSON lists it."""
    if entry.suffix == ".json":
        return bool(listed_files(entry))
    return any(entry.name in listed_files(path) for path in entry.parent.glob("*.json"))


def listed_files(json_path: Path) -> set[str]:
    """Return the names of all files of a prediction from its JSON; empty for any other file."""
    content = _read(json_path)
    if content is None:
        return set()
    overlay = content.get("overlay", f"{json_path.stem}_overlay.jpg")
    return {json_path.name, overlay, *(mask["file"] for mask in content["masks"])}


def free_stem(directory: Path, image: Path) -> str:
    """Return the beginning of the names of an image's files: the image's name, numbered if taken.

    An image of the same name from another directory, or with another suffix, keeps its own files.
    Raises ConfigError for a JSON file there that `predict` did not write.
    """
    stem, number = image.stem, 1
    while os.path.lexists(json_path := directory / f"{stem}.json"):
        content = _read(json_path)
        if content is None:
            raise foreign_file(json_path)
        if Path(content.get("image_path", content["image"])).resolve() == image.resolve():
            break
        number += 1
        stem = f"{image.stem}_{number}"
    return stem


def check_replaced(directory: Path, unfinished: Path, json_name: str) -> set[str]:
    """Raise ConfigError if a file of `unfinished` would replace one that `predict` did not write.

    json_name: name of the prediction's JSON. A file with the same bytes may be replaced: a killed
    process left it. Returns the names of the earlier prediction's files.
    """
    previous = listed_files(directory / json_name)
    for path in unfinished.iterdir():
        target = directory / path.name
        if path.name in previous or not os.path.lexists(target):
            continue
        if not (target.is_file() and cmp(path, target, shallow=False)):
            raise foreign_file(target)
    return previous


def foreign_file(path: Path) -> ConfigError:
    """Return the error for a file that another program wrote."""
    return ConfigError(f"{path}: predict did not write this file; move it, or give another --out")


def _read(json_path: Path) -> dict[str, Any] | None:
    """Return the content of a prediction's JSON; None for any other file."""
    if not json_path.is_file():
        return None
    try:
        content = json.loads(json_path.read_text(encoding="utf-8"))
        named = [isinstance(mask["file"], str) for mask in content["masks"]]
        return content if isinstance(content["image"], str) and all(named) else None
    except (ValueError, LookupError, TypeError):
        return None
