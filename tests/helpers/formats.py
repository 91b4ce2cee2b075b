"""The same data set in every format: each function rewrites one split of the synthetic scenes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco

from mobile_sam.data.index.table import Index

SQUARE = [[1, 1, 9, 1, 9, 9, 1, 9]]


def masks_of(split: Path) -> Iterator[tuple[Path, list[np.ndarray]]]:
    """Each image of `<split>/image` with the masks in `<split>/mask/<id>/`, in order of names."""
    for image in sorted((split / "image").iterdir()):
        files = sorted((split / "mask" / image.stem).iterdir())
        yield image, [np.asarray(Image.open(path)) > 0 for path in files]


def as_label_maps(split: Path, suffix: str = ".png", dtype: type[np.generic] = np.uint8) -> Path:
    """One file for each image; 16-bit maps number their segments in steps of 200."""
    for image, masks in masks_of(split):
        labels = np.zeros(masks[0].shape, dtype=dtype)
        for number, mask in enumerate(masks, start=1):
            labels[mask] = number * (200 if dtype == np.uint16 else 1)
        directory = split / "mask" / image.stem
        shutil.rmtree(directory)
        if suffix == ".npy":
            np.save(directory.with_suffix(suffix), labels)
        else:
            Image.fromarray(labels).save(directory.with_suffix(suffix))
    return split / "mask"


def run_length_code(mask: np.ndarray, compressed: bool) -> dict[str, Any]:
    """COCO's code of a mask; uncompressed as a list of runs down the columns."""
    if compressed:
        code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        return {"size": list(code["size"]), "counts": code["counts"].decode()}
    flat = np.r_[0, mask.ravel(order="F").astype(int), 2]
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.r_[0, changes]).tolist()
    return {"size": list(mask.shape), "counts": runs}


def as_coco(split: Path, compressed: bool = True) -> Path:
    """One JSON file; the class of a segment is `odd` or `even` by its number."""
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 3, "name": "even"}, {"id": 7, "name": "odd"}]
    for image_id, (image, masks) in enumerate(masks_of(split), start=100):
        height, width = masks[0].shape
        size = {"width": width, "height": height}
        content["images"].append({"id": image_id, "file_name": image.name, **size})
        for number, mask in enumerate(masks):
            content["annotations"].append(
                {
                    "id": 1000 * image_id + number,
                    "image_id": image_id,
                    "category_id": 7 if number % 2 else 3,
                    "iscrowd": 0,
                    "segmentation": run_length_code(mask, compressed),
                }
            )
    target = split / "annotations.json"
    target.write_text(json.dumps(content))
    return target


def as_sa1b(split: Path) -> Path:
    """A JSON file beside each image, in the directory of the images."""
    for image, masks in masks_of(split):
        height, width = masks[0].shape
        content = {
            "image": {"image_id": 1, "width": width, "height": height, "file_name": image.name},
            "annotations": [
                {"id": number, "segmentation": run_length_code(mask, True), "area": int(mask.sum())}
                for number, mask in enumerate(masks)
            ],
        }
        image.with_suffix(".json").write_text(json.dumps(content))
    shutil.rmtree(split / "mask")
    return split / "image"


def as_bbbc038(split: Path) -> Path:
    """`<id>/images/<id>.png` beside `<id>/masks/*.png`."""
    for image in sorted((split / "image").iterdir()):
        folder = split / "stage1" / image.stem
        (folder / "images").mkdir(parents=True)
        shutil.move(image, folder / "images" / image.name)
        shutil.move(split / "mask" / image.stem, folder / "masks")
    return split / "stage1"


def as_yolo(split: Path) -> Path:
    """A text file for each image: the outline of each segment's largest part."""
    (split / "labels").mkdir()
    (split / "labels" / "classes.txt").write_text("thing\nother\n")
    for image, masks in masks_of(split):
        lines = []
        for number, mask in enumerate(masks):
            outlines, _ = cv2.findContours(
                mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            outline = max(outlines, key=cv2.contourArea).reshape(-1, 2)
            places = (outline + 0.5) / (mask.shape[1], mask.shape[0])
            if len(places) >= 3:
                numbers = " ".join(f"{value:.6f}" for value in places.ravel())
                lines.append(f"{number % 2} {numbers}")
        (split / "labels" / f"{image.stem}.txt").write_text("\n".join(lines) + "\n")
    return split / "labels"


def ids(path: Path, split: str) -> list[str]:
    index = Index(path, split)
    return [index[position].image_id for position in range(len(index))]


def coco_of_one(
    directory: Path, segmentation: Any, size: tuple[int, int] = (64, 64), **changes: Any
) -> dict[str, tuple[Path, Path]]:
    """A data set of one COCO image with one annotation, for both splits."""
    (directory / "images").mkdir()
    Image.new("RGB", (64, 64)).save(directory / "images" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}],
        "annotations": [{"id": 5, "image_id": 1, "segmentation": segmentation}],
    }
    content |= changes
    (directory / "coco.json").write_text(json.dumps(content))
    return dict.fromkeys(("train", "val"), (directory / "images", directory / "coco.json"))
