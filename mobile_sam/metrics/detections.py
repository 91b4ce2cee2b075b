"""Detected and annotated masks, as COCOeval reads them."""

from collections.abc import Collection
from typing import Any

from pycocotools import mask as coco

Json = dict[str, Any]


def read_annotations(truth: Json, image_ids: Collection[int]) -> list[Json]:
    """Copies of the annotations of some images. Raises ValueError for one without `area`."""
    rows = [row for row in truth["annotations"] if row["image_id"] in image_ids]
    for row in rows:
        if "area" not in row:
            raise ValueError(f"annotation {row['id']} has no 'area'; write its pixels there")
    return [{"iscrowd": 0, **row} for row in rows]


def read_detections(truth: Json, results: list[Json], image_ids: Collection[int]) -> list[Json]:
    """The results on some images, numbered from 1, with the area of the mask in pixels.

    They have no `bbox`, because COCOeval would take its area for that of the mask.
    Raises ValueError for an image or category that `truth` lacks, and a mask that is not of the
    size of its image.
    """
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for row in results:
        image_id, category_id = row["image_id"], row["category_id"]
        if image_id not in sizes or category_id not in categories:
            raise ValueError(
                f"a result is of image {image_id} and category {category_id}, of which the "
                "annotations lack one; give results on images of the same file"
            )
        # pycocotools would say -1 of their IoU.
        if list(row["segmentation"]["size"]) != sizes[image_id]:
            raise ValueError(
                f"a result on image {image_id} is of size {row['segmentation']['size']} and the "
                f"image of {sizes[image_id]}, (H, W); give masks in the image frame"
            )
    rows = [row for row in results if row["image_id"] in image_ids]
    keys = ("image_id", "category_id", "segmentation", "score")
    return [
        {
            **{key: row[key] for key in keys},
            "id": number,
            # One by one: pycocotools 2.0.11 fails for a list of more than 255.
            "area": int(coco.area(row["segmentation"])),
            "iscrowd": 0,
        }
        for number, row in enumerate(rows, start=1)
    ]
