"""Federated annotations, as those of LVIS: of each image only some categories are known.

Gupta et al. 2019, arXiv:1908.03195; conventions as in its authors' code, the package `lvis`.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

FREQUENCIES = ("r", "c", "f")  # a category is rare, common or frequent in the training images
MOST = 300  # detections of all categories that count in an image
_ABSENT, _PARTLY = "neg_category_ids", "not_exhaustive_category_ids"


@dataclass(frozen=True)
class Federation:
    """What is known besides the annotations: ids of images, by category.

    absent: images known to have no object of the category. partly: images in which some of its
    objects may not be annotated.
    """

    absent: dict[int, set[int]]
    partly: dict[int, set[int]]


def federation(truth: dict[str, Any]) -> Federation | None:
    """What an LVIS file says besides its annotations; None of one of COCO.

    It is LVIS' when an image has `neg_category_ids` or `not_exhaustive_category_ids`. Raises
    ValueError when another has not, or a category lacks its `frequency`.
    """
    keys = (_ABSENT, _PARTLY)
    if not any(key in image for image in truth["images"] for key in keys):
        return None
    for image in truth["images"]:
        if lacking := [key for key in keys if key not in image]:
            raise ValueError(
                f"image {image['id']} has no {lacking[0]!r}, which an image of LVIS has; give the "
                "annotations as they were published"
            )
    for category in truth["categories"]:
        if category.get("frequency") not in FREQUENCIES:
            raise ValueError(
                f"category {category['id']} has frequency {category.get('frequency')!r}; LVIS "
                f"knows {', '.join(FREQUENCIES)}"
            )
    return Federation(*(_by_category(truth["images"], key) for key in keys))


def with_pixels(rows: list[Json]) -> list[Json]:
    """The annotations or detections of a positive area: LVIS leaves the others out."""
    return [row for row in rows if row["area"] > 0]


def best_of_each_image(detections: list[Json]) -> list[Json]:
    """The 300 detections of highest score in each image, of equal ones the first."""
    by_image = defaultdict(list)
    for row in sorted(detections, key=lambda row: -row["score"]):
        by_image[row["image_id"]].append(row)
    return [row for rows in by_image.values() for row in rows[:MOST]]


def _by_category(images: list[Json], key: str) -> dict[int, set[int]]:
    found = defaultdict(set)
    for image in images:
        for category in image[key]:
            found[category].add(image["id"])
    return dict(found)
