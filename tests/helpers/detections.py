"""Annotated and detected masks of made-up images, in the formats of COCO and LVIS."""

from typing import Any

import numpy as np

from mobile_sam.data.masks import encode
from tests.helpers.mask_pairs import Mask

Json = dict[str, Any]
SIZE = (150, 200)
CATEGORIES = [11, 2, 7, 5, 23, 42, 3, 8, 90]  # in no order


def rle(mask: Mask) -> Json:
    return {"size": list(SIZE), "counts": encode(mask).decode()}


def rectangle(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) of a small, medium or large object."""
    side = int(rng.choice([12, 25, 60, 130]))
    y, x = rng.integers(0, 150 - side // 2), rng.integers(0, 200 - side // 2)
    height, width = rng.integers(side // 2, side, 2)
    return int(x), int(y), int(min(x + width, 200)), int(min(y + height, 150))


def filled(box: tuple[int, int, int, int]) -> Mask:
    mask = np.zeros(SIZE, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def annotation(rng: np.random.Generator, image: int, category: int) -> Json:
    """As a polygon, or a run-length code."""
    x0, y0, x1, y1 = rectangle(rng)
    polygon = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    segmentation = polygon if rng.random() < 0.5 else rle(filled((x0, y0, x1, y1)))
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "area": (x1 - x0) * (y1 - y0),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
    }


def detections(rng: np.random.Generator, row: Json, number: int) -> list[Json]:
    """Near to an annotation, some of another category; scores with ties; now and then empty."""
    x, y, width, height = row["bbox"]
    found = []
    for _ in range(number):
        dx, dy = rng.integers(-4, 5, 2) * max(width, height) // 25
        mask = filled((max(x + dx, 0), max(y + dy, 0), x + width + dx, y + height + dy))
        mask &= rng.random(SIZE) < rng.choice([0.0, 0.8, 0.95, 2.0], p=[0.05, 0.25, 0.3, 0.4])
        category = row["category_id"] if rng.random() < 0.8 else int(rng.choice(CATEGORIES))
        found.append(
            {
                "image_id": row["image_id"],
                "category_id": category,
                "segmentation": rle(mask),
                "score": round(rng.random(), 2),
            }
        )
    return found


def data_set(seed: int, images: int = 12, most: int = 4) -> tuple[Json, list[Json]]:
    """COCO annotations of random rectangles, some of them crowds, and results for them."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(1000)[:images].tolist()
    rows: list[Json] = []
    results: list[Json] = []
    for image in ids:
        for category in rng.permutation(CATEGORIES[:-1])[: rng.integers(0, 5)].tolist():
            for _ in range(rng.integers(1, 4)):
                rows.append(annotation(rng, image, category))
                results += detections(rng, rows[-1], int(rng.integers(0, most)))
    for number, row in enumerate(rows, start=1):
        row |= {"id": number, "iscrowd": int(rng.random() < 0.1)}
    order = rng.permutation(len(results))
    truth = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in ids],
        "annotations": rows,
        "categories": [{"id": i, "name": str(i)} for i in CATEGORIES],
    }
    return truth, [results[i] for i in order]


def federated_data_set(seed: int, images: int = 12, most: int = 4) -> tuple[Json, list[Json]]:
    """The same as LVIS has it: some categories absent, or not annotated to the end."""
    truth, results = data_set(seed, images, most)
    rng = np.random.default_rng(seed)
    for image in truth["images"]:
        there = {r["category_id"] for r in truth["annotations"] if r["image_id"] == image["id"]}
        others = sorted(set(CATEGORIES) - there)
        image["neg_category_ids"] = [i for i in others if rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [i for i in CATEGORIES if rng.random() < 0.25]
    for row in truth["annotations"]:
        del row["iscrowd"]  # LVIS knows none
    for number, category in enumerate(truth["categories"]):
        category["frequency"] = "rcf"[number % 3]
    return truth, results
