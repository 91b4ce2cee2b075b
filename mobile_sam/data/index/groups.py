"""Groups of images that belong together, such as those of a patient, a slide or a video."""

import csv
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from mobile_sam.config.sections import is_groups_file
from mobile_sam.data.record import normalise_name
from mobile_sam.data.tiles import source_image
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.paths import read_text

GroupOf = Callable[[str], str | None]  # group of an image id; None if it has no group


def assign_groups(image_ids: Iterable[str], groups: str | None) -> dict[str, str]:
    """Return the group of each image; without `groups`, each image is a group of its own.

    groups: value of `data.groups`, as in `_group_lookup`.
    Raises ConfigError that names images without a group.
    """
    if groups is None:
        return {image_id: image_id for image_id in image_ids}
    group_of = _group_lookup(groups)
    assigned = {image_id: group_of(image_id) for image_id in image_ids}
    missing = sorted(image_id for image_id, group in assigned.items() if group is None)
    if missing:
        raise ConfigError(
            f"data.groups: {groups!r} gives no group to {len(missing)} images, such as "
            f"{', '.join(missing[:3])}; give each image a group"
        )
    return {image_id: group for image_id, group in assigned.items() if group is not None}


def _group_lookup(groups: str) -> GroupOf:
    """Return a function that gives the group of an image id.

    groups: a CSV file with columns `image_id` and `group`, or a regular expression that is searched
    in the id; the group is its first capturing group, or the whole match if it has none.
    Raises ConfigError if the file has other columns, or gives an id two groups.
    """
    if is_groups_file(groups):
        group_of_image = _read_groups_file(Path(groups))
        return lambda image_id: group_of_image.get(
            image_id, group_of_image.get(source_image(image_id))
        )
    pattern = re.compile(groups)
    return lambda image_id: _match_group(pattern, source_image(image_id))


def _match_group(pattern: re.Pattern[str], image_id: str) -> str | None:
    match = pattern.search(image_id)
    return None if match is None else match[1 if pattern.groups else 0]


def _read_groups_file(path: Path) -> dict[str, str]:
    rows = csv.DictReader(read_text(path).lstrip("\ufeff").splitlines())
    if not {"image_id", "group"} <= set(rows.fieldnames or ()):
        raise ConfigError(
            f"data.groups: {path}: the columns are {', '.join(rows.fieldnames or ['none'])}; "
            "name them image_id and group"
        )
    assigned: dict[str, str] = {}
    for row in rows:
        image_id, group = normalise_name(row["image_id"] or ""), row["group"]
        if not image_id or not group or assigned.get(image_id, group) != group:
            raise ConfigError(
                f"data.groups: {path}, line {rows.line_num}: "
                f"{f'{image_id!r} has another group above' if group and image_id else 'empty'}; "
                "give each image one group"
            )
        assigned[image_id] = group
    return assigned
