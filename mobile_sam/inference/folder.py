"""The verb `segment`: masks in the images of a directory, as files; what is done stays."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mobile_sam.config import ConfigError
from mobile_sam.data.images import RecordError, read_image
from mobile_sam.data.index import DatasetError
from mobile_sam.data.masks import decode
from mobile_sam.data.records import Found, Record
from mobile_sam.files import file_digest, whole, write_json
from mobile_sam.inference.drawing import overlay, write_label_map, write_picture
from mobile_sam.inference.prompt import Prompt
from mobile_sam.inference.requested import Records, Requested
from mobile_sam.inference.sa1b import write_sa1b
from mobile_sam.models.sam import Sam

log = logging.getLogger(__name__)

FORMAT = 1  # of settings.json


@dataclass(frozen=True)
class Folder:
    """Where the files of a segmented directory lie; an image's are named by its path there."""

    directory: Path

    @property
    def settings(self) -> Path:
        """Of which model and options the files are."""
        return self.directory / "settings.json"

    @property
    def coco(self) -> Path:
        return self.directory / "coco.json"

    def masks(self, image_id: str) -> Path:
        """SA-1B's JSON of an image: written last, so that the image is finished."""
        return self.directory / "masks" / f"{image_id}.json"

    def label_map(self, image_id: str) -> Path:
        return self.directory / "label_maps" / f"{image_id}.png"

    def overlay(self, image_id: str) -> Path:
        return self.directory / "overlays" / f"{image_id}.jpg"


def segment_directory(
    model: Sam,
    images: Found,
    directory: Path,
    requested: Requested,
    source: Mapping[str, Any],
    overlays: bool = True,
) -> str:
    """Write label maps, masks, overlays and one COCO file of images.

    model: in eval mode. images: as `find_unlabelled` gives them.
    source: the model, by what tells it from others; files of another one, or of other requests, are
    refused. Images that are finished and unchanged are not computed again.
    Returns what there is, in a sentence. Raises DatasetError for images that cannot be read or
    asked, after all others are written.
    """
    folder = Folder(directory)
    settings = {"model": dict(source), "options": dict(requested.settings)}
    _claim(folder, {"format": FORMAT, **settings})
    problems, finished, computed = list(images.problems), [], 0
    for record in tqdm(images.records, unit="image", disable=None, mininterval=1):
        stamp = {"sha256": file_digest(record.image_path), **requested.of_image(record.image_id)}
        if not _is_finished(folder, record, stamp, overlays):
            try:
                image = read_image(record.image_path)
                found = requested.answers(model, image, record.image_id)
            except RecordError as error:
                problems.append(str(error))
                continue
            _write(folder, record, image, found, stamp, overlays)
            computed += 1
        finished.append(record)
    count = _write_coco(folder, finished, requested.categories)
    if problems:
        raise DatasetError("\n".join([*problems, f"the other images are in {directory}"]))
    return (
        f"{count} masks in {len(finished)} images, {len(finished) - computed} of them finished "
        f"before: {folder.coco}"
    )


def _claim(folder: Folder, settings: dict[str, Any]) -> None:
    """Write the settings, or raise ConfigError where there are files of other ones."""
    if not folder.settings.exists():
        write_json(folder.settings, settings)
        return
    before = json.loads(folder.settings.read_text())
    if before.get("format") != FORMAT:
        differing = [f"format {before.get('format')}, now {FORMAT}"]
    else:
        differing = [
            f"{key} {json.dumps(before[part].get(key))}, now {json.dumps(now)}"
            for part in ("model", "options")
            for key, now in settings[part].items()
            if key != "weights" and before[part].get(key) != now  # the same file may have moved
        ]
    if differing:
        raise ConfigError(
            f"{folder.settings}: what lies there was computed otherwise ({'; '.join(differing)}); "
            "give another --out, or remove the directory"
        )


def _is_finished(folder: Folder, record: Record, stamp: Mapping[str, Any], overlays: bool) -> bool:
    path = folder.masks(record.image_id)
    if not path.exists() or (overlays and not folder.overlay(record.image_id).exists()):
        return False
    told = json.loads(path.read_text())["image"]
    return all(told.get(key) == value for key, value in stamp.items())


def _write(
    folder: Folder,
    record: Record,
    image: NDArray[np.uint8],
    found: Records,
    stamp: Mapping[str, Any],
    overlays: bool,
) -> None:
    size = image.shape[0], image.shape[1]
    masks = [decode(item["segmentation"]["counts"].encode(), size) for item in found]
    with whole(folder.label_map(record.image_id)) as unfinished:
        write_label_map(unfinished, masks, size)
    if overlays:
        prompts = [Prompt(tuple(item["prompt_box"])) for item in found if "prompt_box" in item]
        with whole(folder.overlay(record.image_id)) as unfinished:
            write_picture(unfinished, overlay(image, masks, prompts))
    write_sa1b(folder.masks(record.image_id), found, record.image_path.name, size, more=stamp)


def _write_coco(folder: Folder, records: Sequence[Record], categories: Mapping[int, str]) -> int:
    """Write all masks as one COCO file, image by image; returns how many there are."""
    images: list[dict[str, Any]] = []
    classes = json.dumps([{"id": number, "name": name} for number, name in categories.items()])
    with whole(folder.coco) as unfinished, unfinished.open("w") as file:
        file.write(f'{{"categories": {classes},\n"annotations": [\n')
        objects = enumerate(_annotations(folder, records, images), start=1)
        count = _write_list(file, ({"id": number, **item} for number, item in objects))
        file.write('],\n"images": [\n')
        _write_list(file, iter(images))
        file.write("]}\n")
    return count


def _annotations(
    folder: Folder, records: Sequence[Record], images: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The masks of all images, each of which is added to `images` when its turn comes."""
    for number, record in enumerate(records, start=1):
        content = json.loads(folder.masks(record.image_id).read_text())
        size = {side: content["image"][side] for side in ("height", "width")}
        name = f"{record.image_id}{record.image_path.suffix}"
        images.append({"id": number, "file_name": name, **size})
        yield from (_annotation(item, number) for item in content["annotations"])


def _annotation(item: dict[str, Any], image_id: int) -> dict[str, Any]:
    x, y, width, height = item["bbox"]
    return {
        "image_id": image_id,
        "category_id": item.get("category_id", 1),
        "iscrowd": 0,
        "segmentation": item["segmentation"],
        "area": item["area"],
        "bbox": [x, y, width + 1, height + 1],  # SAM's end at the last pixel, COCO's behind it
        "score": item.get("score", item["predicted_iou"]),
    }


def _write_list(file: TextIO, items: Iterator[dict[str, Any]]) -> int:
    count = 0
    for count, item in enumerate(items, start=1):
        file.write(f"{',' if count > 1 else ''}{json.dumps(item)}\n")
    return count
