"""The command `segment`: write the masks of a directory of images, and resume where it stopped."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mobile_sam.config.sections import Tile
from mobile_sam.coordinates import ThinImageError
from mobile_sam.data.images import RecordError, read_image
from mobile_sam.data.index.table import DatasetError
from mobile_sam.data.masks import EncodedMasks, Size
from mobile_sam.data.record import Record, SearchResult
from mobile_sam.data.tiles import Grid
from mobile_sam.data.windows import DecodedImages, is_large, read_window, upright_size
from mobile_sam.inference.drawing import overlay, write_jpeg, write_label_map
from mobile_sam.inference.mask_sources import MaskRecords, MaskSource
from mobile_sam.inference.prompt import Prompt
from mobile_sam.inference.sa1b import write_sa1b
from mobile_sam.inference.tiles import (
    Piece,
    merge_pieces,
    pieces_of_tile,
    write_large_label_map,
)
from mobile_sam.models.sam import Sam
from mobile_sam.system.atomic_files import atomic_write, file_digest, json_content, write_json
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.outputs import claim_output
from mobile_sam.system.paths import read_text
from mobile_sam.system.progress import ProgressLog

log = logging.getLogger(__name__)

FORMAT = 1  # of settings.json


@dataclass(frozen=True)
class OutputFolder:
    """Paths of the results of `segment`. An image's files are named by its path below the input."""

    directory: Path

    @property
    def settings(self) -> Path:
        """Model and options of the results."""
        return self.directory / "settings.json"

    @property
    def coco(self) -> Path:
        return self.directory / "coco.json"

    def masks(self, image_id: str) -> Path:
        """SA-1B's JSON of an image; it is written last and marks the image as finished."""
        return self.directory / "masks" / f"{image_id}.json"

    def label_map(self, image_id: str) -> Path:
        return self.directory / "label_maps" / f"{image_id}.png"

    def large_label_map(self, image_id: str) -> Path:
        """Label map of an image that is segmented in tiles; it has no overlay."""
        return self.directory / "label_maps" / f"{image_id}.tif"

    def tiles(self, image_id: str) -> Path:
        """Masks of the tiles of an image that is not finished, and decoded images."""
        return self.directory / "tiles" / image_id

    def overlay(self, image_id: str) -> Path:
        return self.directory / "overlays" / f"{image_id}.jpg"

    def pictures(self, image_id: str, overlays: bool, large: bool) -> dict[str, Path]:
        """Return the paths of an image's label map and overlay, by kind."""
        if large:
            return {"label_map": self.large_label_map(image_id)}
        label_map = {"label_map": self.label_map(image_id)}
        return label_map | ({"overlay": self.overlay(image_id)} if overlays else {})

    def is_own(self, entry: Path) -> bool:
        """Return whether a version that did not mark its directories wrote this entry."""
        names = {"settings.json", "coco.json", "masks", "label_maps", "overlays", "tiles"}
        return entry.name in names and self.settings.is_file()


def segment_directory(
    model: Sam,
    images: SearchResult,
    directory: Path,
    mask_source: MaskSource,
    model_source: Mapping[str, Any],
    overlays: bool = True,
) -> str:
    """Write label maps, masks, overlays and one COCO file of images.

    model: in eval mode. images: from `find_unlabelled`.
    model_source: file, digest and settings of the model. Results of another model, or with other
    options, are refused. Finished, unchanged images are not computed again. With `data.tile` among
    the model's image options, images that are larger than a tile are segmented tile by tile.
    Returns a summary in one sentence. Raises DatasetError for images that cannot be read or do not
    fit their prompts, after all others are written.
    """
    folder = OutputFolder(directory)
    claim_output(directory, "--out", folder.is_own)
    settings = {"model": dict(model_source), "options": dict(mask_source.settings)}
    _check_settings(folder, {"format": FORMAT, **settings})
    for note in images.notes:
        log.info("%s", note)
    problems, finished, computed = list(images.problems), [], 0
    bar = tqdm(images.records, unit="image", disable=None, mininterval=1)
    progress = ProgressLog("segment", len(images.records)) if bar.disable else None
    tile: Tile | None = getattr(model.image_options, "tile", None)
    for record in bar:
        image_settings = mask_source.image_settings(record.image_id)
        stamp = {"sha256": file_digest(record.image_path), **image_settings}
        large = tile is not None and is_large(record.image_path, model.image_options, tile)
        pictures = folder.pictures(record.image_id, overlays, large)
        is_finished = _is_finished(folder, record, stamp, pictures)
        if progress is not None:
            progress.step(computed=not is_finished)
        if not is_finished:
            try:
                if large and tile is not None:
                    _segment_large(folder, model, mask_source, record, tile, stamp)
                else:
                    image = read_image(record.image_path, model.image_options)
                    masks = mask_source.records(model, image, record.image_id)
                    _write(folder, record, image, masks, stamp, overlays)
            except RecordError as error:
                problems.append(str(error))
                continue
            except ThinImageError as error:
                problems.append(f"{record.image_path}: {error}")
                continue
            computed += 1
        finished.append(record)
    count = _write_coco(folder, finished, mask_source.categories)
    if problems:
        raise DatasetError("\n".join([*problems, f"masks of all other images: {directory}"]))
    return (
        f"{count} masks in {len(finished)} images, {len(finished) - computed} of them finished "
        f"before: {folder.coco}"
    )


def _check_settings(folder: OutputFolder, settings: dict[str, Any]) -> None:
    """Write the settings; raise ConfigError if the directory has results of other settings."""
    if not folder.settings.exists():
        write_json(folder.settings, settings)
        return
    try:
        before = json.loads(read_text(folder.settings))
        file_format = before.get("format")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ConfigError(
            f"{folder.settings}: not a settings file of segment; give another --out"
        ) from error
    if file_format != FORMAT:
        differing = [f"format {file_format}, now {FORMAT}"]
    else:
        differing = [
            f"{key} {json.dumps(before[part].get(key))}, now {json.dumps(now)}"
            for part in ("model", "options")
            for key, now in settings[part].items()
            if key != "weights" and before[part].get(key) != now  # the same file may have moved
        ]
    if differing:
        raise ConfigError(
            f"{folder.settings}: the results there have other settings ({'; '.join(differing)}); "
            "give another --out, or remove the directory"
        )


def _is_finished(
    folder: OutputFolder, record: Record, stamp: Mapping[str, Any], pictures: Mapping[str, Path]
) -> bool:
    """Return whether all files of an image are complete and match its pixels and prompts."""
    path = folder.masks(record.image_id)
    if not path.exists():
        return False
    try:
        written = json.loads(path.read_text(encoding="utf-8"))["image"]
        digests = written.get("files", {})  # older versions wrote none
        damaged = [
            file
            for name, file in pictures.items()
            if not file.is_file() or (name in digests and file_digest(file) != digests[name])
        ]
    except (ValueError, KeyError, AttributeError, TypeError):
        damaged, written = [path], {}
    if damaged:
        log.warning("%s: missing or damaged; the image is segmented again", damaged[0])
    return not damaged and all(written.get(key) == value for key, value in stamp.items())


def _write(
    folder: OutputFolder,
    record: Record,
    image: NDArray[np.uint8],
    mask_records: MaskRecords,
    stamp: Mapping[str, Any],
    overlays: bool,
) -> None:
    size = image.shape[0], image.shape[1]
    masks = EncodedMasks((item["segmentation"]["counts"].encode() for item in mask_records), size)
    with atomic_write(folder.label_map(record.image_id)) as unfinished:
        write_label_map(unfinished, masks)
    if overlays:
        boxes = [item["prompt_box"] for item in mask_records if "prompt_box" in item]
        with atomic_write(folder.overlay(record.image_id)) as unfinished:
            write_jpeg(unfinished, overlay(image, masks, [Prompt(tuple(box)) for box in boxes]))
    pictures = folder.pictures(record.image_id, overlays, large=False)
    _write_masks(folder, record, mask_records, size, stamp, pictures)


def _write_masks(
    folder: OutputFolder,
    record: Record,
    mask_records: MaskRecords,
    size: Size,
    stamp: Mapping[str, Any],
    pictures: Mapping[str, Path],
) -> None:
    """Write the masks of an image (H, W), which marks it as finished."""
    more = {**stamp, "files": {name: file_digest(path) for name, path in pictures.items()}}
    name = record.image_path.name
    write_sa1b(folder.masks(record.image_id), mask_records, name, size, more=more)


def _segment_large(
    folder: OutputFolder,
    model: Sam,
    mask_source: MaskSource,
    record: Record,
    tile: Tile,
    stamp: Mapping[str, Any],
) -> None:
    """Segment an image tile by tile; finished tiles of an interrupted command are kept.

    Raises RecordError for a tile that cannot be read.
    """
    directory, options = folder.tiles(record.image_id), model.image_options
    cache = DecodedImages(directory / "decoded", tile.cache_gb)
    size = upright_size(record.image_path, options, cache)
    pieces: list[Piece] = []
    for window in Grid.of(size, tile).windows():
        path = directory / f"{window.x},{window.y}.json"
        kept = json_content(path)
        if not isinstance(kept, dict) or kept.get("stamp") != stamp:
            pixels = read_window(record.image_path, options, window, cache)
            records = mask_source.records(model, pixels, record.image_id)
            kept = {"stamp": stamp, "records": records}
            write_json(path, kept)
        pieces += pieces_of_tile(kept["records"], window, size)
    merged = merge_pieces(pieces, size)
    label_map = folder.large_label_map(record.image_id)
    with atomic_write(label_map) as unfinished:
        write_large_label_map(unfinished, merged, size)
    pictures = folder.pictures(record.image_id, overlays=False, large=True)
    _write_masks(folder, record, merged, size, stamp, pictures)
    shutil.rmtree(directory)


def _write_coco(
    folder: OutputFolder, records: Sequence[Record], categories: Mapping[int, str]
) -> int:
    """Write all masks as one COCO file, image by image; return their number."""
    images: list[dict[str, Any]] = []
    classes = json.dumps([{"id": number, "name": name} for number, name in categories.items()])
    with atomic_write(folder.coco) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write(f'{{"categories": {classes},\n"annotations": [\n')
        annotations = enumerate(_annotations(folder, records, images), start=1)
        count = _write_list(file, ({"id": number, **item} for number, item in annotations))
        file.write('],\n"images": [\n')
        _write_list(file, iter(images))
        file.write("]}\n")
    return count


def _annotations(
    folder: OutputFolder, records: Sequence[Record], images: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the annotations of all images, and append each image to `images` on the way."""
    for number, record in enumerate(records, start=1):
        content = json.loads(folder.masks(record.image_id).read_text(encoding="utf-8"))
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
        "bbox": [x, y, width + 1, height + 1],  # SAM's boxes include the last pixel
        "score": item.get("score", item["predicted_iou"]),
    }


def _write_list(file: TextIO, items: Iterator[dict[str, Any]]) -> int:
    count = 0
    for count, item in enumerate(items, start=1):
        file.write(f"{',' if count > 1 else ''}{json.dumps(item)}\n")
    return count
