"""Which images belong together, such as those of a patient, a slide or a video."""

import csv
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from mobile_sam.data.record import normalise_name
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.paths import read_text

GroupOf = Callable[[str], str | None]  # of an image id; None where it has no group


def group_lookup(groups: str | None) -> GroupOf | None:
    """Return what gives the group of an image id, as `data.groups` says; None without groups.

    groups: a CSV file with columns `image_id` and `group`, or a regular expression that is searched
    in the id, whose first bracket (or all that it matches) is the group.
    Raises ConfigError for a file that is none, or an id that has two groups.
    """
    if groups is None:
        return None
    if groups.lower().endswith(".csv"):
        return _read_groups_file(Path(groups)).get
    return partial(_match_group, re.compile(groups))


def _match_group(pattern: re.Pattern[str], image_id: str) -> str | None:
    found = pattern.search(image_id)
    return None if found is None else found[1 if pattern.groups else 0]


def _read_groups_file(path: Path) -> dict[str, str]:
    rows = csv.DictReader(read_text(path).lstrip("\ufeff").splitlines())
    if not {"image_id", "group"} <= set(rows.fieldnames or ()):
        raise ConfigError(
            f"data.groups: {path}: the columns are {', '.join(rows.fieldnames or ['none'])}; "
            "name them image_id and group"
        )
    found: dict[str, str] = {}
    for row in rows:
        image_id, group = normalise_name(row["image_id"] or ""), row["group"]
        if not image_id or not group or found.get(image_id, group) != group:
            raise ConfigError(
                f"data.groups: {path}, line {rows.line_num}: "
                f"{f'{image_id!r} has another group above' if group and image_id else 'empty'}; "
                "give each image one group"
            )
        found[image_id] = group
    return found


def assign_groups(image_ids: Iterable[str], groups: str | None) -> dict[str, str]:
    """Return the group of each image; without `groups` each is a group of its own.

    Raises ConfigError that names images without a group.
    """
    of = group_lookup(groups)
    if of is None:
        return {image_id: image_id for image_id in image_ids}
    found = {image_id: of(image_id) for image_id in image_ids}
    without = sorted(image_id for image_id, group in found.items() if group is None)
    if without:
        raise ConfigError(
            f"data.groups: {groups!r} gives no group to {len(without)} images, such as "
            f"{', '.join(without[:3])}; each needs one"
        )
    return {image_id: group for image_id, group in found.items() if group is not None}
