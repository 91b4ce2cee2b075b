"""Small drawn images with masks, and what an index reads of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from mobile_sam.config.sections import Data
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import notes_path
from mobile_sam.data.masks import decode

WIDTH, HEIGHT = 96, 64
# x0, y0, x1, y1 of three objects, exclusive at the end; their areas are 400, 720 and 540 pixels.
SQUARES = ((8, 8, 28, 28), (40, 10, 70, 34), (20, 40, 50, 58))
AREAS = [400, 720, 540]


@dataclass(frozen=True)
class Seen:
    """One row of an index."""

    name: str
    mask: np.ndarray
    category: str | None
    left_out: str | None

    @property
    def area(self) -> int:
        return int(self.mask.sum())


def picture(seed: int = 0) -> np.ndarray:
    """An image (H, W, 3) in which the squares are bright."""
    pixels = np.random.default_rng(seed).integers(30, 70, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(SQUARES):
        pixels[y0:y1, x0:x1] = (200 - 40 * number, 90 + 50 * number, 60 + 30 * number)
    return pixels


def square(number: int) -> np.ndarray:
    """The mask (H, W) of one of the squares."""
    x0, y0, x1, y1 = SQUARES[number]
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def label_map(
    dtype: type[np.generic] = np.uint8, values: tuple[int, ...] = (1, 2, 3)
) -> np.ndarray:
    """A label map (H, W) of the squares."""
    labels = np.zeros((HEIGHT, WIDTH), dtype=dtype)
    for number, value in enumerate(values):
        labels[square(number)] = value
    return labels


def polygon(number: int) -> list[float]:
    """The outline of one of the squares: x, y, x, y, ..."""
    x0, y0, x1, y1 = SQUARES[number]
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def points(number: int) -> list[list[float]]:
    """The outline of one of the squares as pairs."""
    return np.reshape(polygon(number), (-1, 2)).tolist()


def draw_image(directory: Path, name: str = "a.png", seed: int = 0) -> Path:
    """Write an image; returns its directory."""
    return save(directory / name, picture(seed)).parent


def save(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    """Write pixels as an image file, and the directories above it; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def dump(path: Path, content: Any) -> Path:
    """Write JSON, and the directories above it; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco(*names: str, **changes: Any) -> dict[str, Any]:
    """A COCO file of images that show the squares."""
    images = [
        {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for number, name in enumerate(names or ("a.png",), start=1)
    ]
    annotations = [
        {
            "id": 3 * (image["id"] - 1) + number + 1,
            "image_id": image["id"],
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": [polygon(number)],
        }
        for image in images
        for number in range(3)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
        **changes,
    }


def read(images: Path, masks: Path, **options: Any) -> dict[str, list[Seen]]:
    """What an index has of a data set, by the ids of its images.

    Raises DatasetError as `index_dataset` does. An image without objects has an empty list.
    """
    target = images.parent / "index.parquet"
    index_dataset({"val": (images, masks)}, target, Data(**options))
    found: dict[str, list[Seen]] = {}
    for row in pq.read_table(target).to_pylist():
        seen = found.setdefault(row["image_id"], [])
        if row["rle"] is not None:
            mask = decode(row["rle"], (row["height"], row["width"]))
            seen.append(Seen(row["segment_id"], mask, row["class"], row["left_out"]))
    return found


def areas(images: Path, masks: Path, **options: Any) -> list[int]:
    """Areas of the objects of image `a` in use, in order."""
    seen = read(images, masks, **options)["a"]
    return [item.area for item in seen if item.left_out is None]


def notes(images: Path) -> str:
    """What was noted when the data set of `images` was last indexed."""
    path = notes_path(images.parent / "index.parquet")
    return "\n".join(json.loads(path.read_text(encoding="utf-8"))["notes"])
