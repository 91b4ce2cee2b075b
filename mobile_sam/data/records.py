"""Records: images with their annotations as they lie on disk, whatever the format.

The format of a record is recognised by what lies in the two places of a data set:

- `mask_directory`: `<masks>/<id>/*.png`, one file for each segment, set where it is not 0.
- `label_map`: `<masks>/<id>.png` (8 or 16 bit), `.tif` or `.npy`; each value but 0 is a segment. A
  binary mask is a label map with one value.
- `yolo`: `<masks>/<id>.txt`, one polygon a line; names of classes in `<masks>/classes.txt`.
- `sa1b`: `<masks>/<id>.json`, as SA-1B has it beside each image.
- `coco`: `<masks>` is a JSON file of COCO's form, for all images.
- `bbbc038`: `<images>/<id>/images/*` beside `<images>/<id>/masks/*`; both places are the same.

Images without masks are records of the format `unlabelled`.
"""

import logging
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mobile_sam.data.coco import CocoFile, CocoObject
from mobile_sam.data.images import IMAGE_SUFFIXES, RecordError
from mobile_sam.data.index import UNLABELLED
from mobile_sam.data.masks import Size

log = logging.getLogger(__name__)

MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".npy"})
_FORMAT_OF_SUFFIX = dict.fromkeys(MASK_SUFFIXES, "label_map") | {".txt": "yolo", ".json": "sa1b"}
CLASS_NAMES = "classes.txt"
# An annotation: its format and its files.
_Entry = tuple[str, tuple[Path, ...]]


@dataclass(frozen=True, slots=True)
class Record:
    """One image and where its annotations are.

    sources: annotation files: one for each segment, or one for all of them.
    objects, size: what a COCO file says of the image; size is (H, W).
    """

    image_id: str
    image_path: Path
    format: str
    sources: tuple[Path, ...]
    objects: tuple[CocoObject, ...] = ()
    size: Size | None = None

    def stamp(self) -> Iterator[bytes | memoryview]:
        """What changes whenever the image or its annotations do: sizes and times of the files."""
        yield f"{self.image_path} {self.image_id} {self.format} {self.size}".encode()
        for path in (self.image_path, *(() if self.format == "coco" else self.sources)):
            found = path.stat()
            yield f"{path} {found.st_size} {found.st_mtime_ns}".encode()
        yield repr([item[:3] for item in self.objects]).encode()
        for item in self.objects:
            yield memoryview(item.segmentation)


@dataclass
class Found:
    """Records in order of their ids, and a sentence for each file that has no counterpart."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_records(image_dir: Path, mask_dir: Path) -> Found:
    """All images of `image_dir` with their annotations in `mask_dir`.

    mask_dir: a directory, or a COCO file.
    """
    if mask_dir.suffix.lower() == ".json" and mask_dir.is_file():
        return _coco(image_dir, mask_dir)
    found = Found()
    images = _images(image_dir, found)
    if not images and (folders := _bbbc038_folders(image_dir)):
        return _bbbc038(folders)
    annotations = _annotations(mask_dir, set(images.values()), found)
    for image_id, path in images.items():
        if image_id in annotations:
            format_, files = annotations.pop(image_id)
            found.records.append(Record(image_id, path, format_, files))
        else:
            found.problems.append(
                f"{path}: the image has no masks; put them into {mask_dir / image_id}/ "
                f"or {mask_dir / image_id}.png"
            )
    found.problems += [
        _no_image(*entry, image_id, image_dir) for image_id, entry in annotations.items()
    ]
    if not images:
        found.problems.append(_no_images(image_dir))
    return found


def find_unlabelled(image_dir: Path) -> Found:
    """All images below `image_dir`; the id of one is its path there, without the suffix."""
    found = Found()
    images: dict[str, Path] = {}
    for path in _below(image_dir):
        image_id = normal_name(path.relative_to(image_dir).with_suffix("").as_posix())
        if image_id in images:
            found.problems.append(_same_name(path, images[image_id]))
        images[image_id] = path
    found.records = [Record(name, path, UNLABELLED, ()) for name, path in images.items()]
    if not images:
        found.problems.append(_no_images(image_dir))
    return found


def _below(directory: Path) -> Iterator[Path]:
    for path in _entries(directory):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            yield path
        elif path.is_dir():
            yield from _below(path)


def _same_name(path: Path, other: Path) -> str:
    return f"{path}: {other.name} has the same name; rename one"


def _no_images(image_dir: Path) -> str:
    return f"{image_dir}: there is no image ({', '.join(sorted(IMAGE_SUFFIXES))})"


def _images(image_dir: Path, found: Found) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in _entries(image_dir):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        image_id = normal_name(path.stem)
        if image_id in images:
            found.problems.append(_same_name(path, images[image_id]))
        images[image_id] = path
    return images


def _annotations(mask_dir: Path, images: set[Path], found: Found) -> dict[str, _Entry]:
    annotations: dict[str, _Entry] = {}
    for path in _entries(mask_dir):
        suffix = path.suffix.lower()
        if path.is_dir():
            files = tuple(p for p in _entries(path) if p.suffix.lower() in MASK_SUFFIXES)
            image_id, entry = normal_name(path.name), ("mask_directory", files)
        elif suffix in _FORMAT_OF_SUFFIX and path not in images and path.name != CLASS_NAMES:
            image_id, entry = normal_name(path.stem), (_FORMAT_OF_SUFFIX[suffix], (path,))
        else:
            continue
        if image_id in annotations:
            found.problems.append(
                f"{path}: {annotations[image_id][1][0]} has masks of the same image; keep one"
            )
        elif entry[1]:
            annotations[image_id] = entry
    return annotations


def _no_image(format_: str, files: tuple[Path, ...], image_id: str, image_dir: Path) -> str:
    path = files[0].parent if format_ == "mask_directory" else files[0]
    if format_ == "sa1b":
        return (
            f"{path}: there is no image {image_id} in {image_dir}/; if the file is a COCO file for "
            "all images, name it itself in place of its directory"
        )
    return f"{path}: the masks have no image; put {image_id}.png or .jpg into {image_dir}/"


def _bbbc038_folders(image_dir: Path) -> list[Path]:
    return [path for path in _entries(image_dir) if (path / "images").is_dir()]


def _bbbc038(folders: list[Path]) -> Found:
    found = Found()
    for folder in folders:
        images = [p for p in _entries(folder / "images") if p.suffix.lower() in IMAGE_SUFFIXES]
        masks = folder / "masks"
        files = (
            [p for p in _entries(masks) if p.suffix.lower() in MASK_SUFFIXES]
            if masks.is_dir()
            else []
        )
        if len(images) != 1:
            found.problems.append(f"{folder / 'images'}: there are {len(images)} images; keep one")
        elif not files:
            found.problems.append(f"{images[0]}: the image has no masks; put them into {masks}/")
        else:
            found.records.append(
                Record(normal_name(folder.name), images[0], "bbbc038", tuple(files))
            )
    return found


def _coco(image_dir: Path, file: Path) -> Found:
    found = Found()
    try:
        content = CocoFile(file)
    except RecordError as error:
        found.problems.append(str(error))
        return found
    found.problems += content.problems
    files = {entry.name for entry in os.scandir(image_dir) if entry.is_file()}
    seen: dict[str, str] = {}
    for name, size, objects in content.images():
        relative = Path(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.name:
            found.problems.append(
                f"{file}: file_name {name!r} leaves {image_dir}; make it relative"
            )
            continue
        path, image_id = image_dir / relative, relative.with_suffix("").as_posix()
        if image_id in seen:
            found.problems.append(
                f"{file}: {name!r} and {seen[image_id]!r} are one image; keep one"
            )
        elif name not in files and not path.is_file():
            found.problems.append(f"{file}: there is no image {path}; put it there")
        else:
            found.records.append(Record(image_id, path, "coco", (file,), objects, size))
        seen[image_id] = name
    found.records.sort(key=lambda record: record.image_id)
    unlisted = files - set(seen.values())
    count = sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in unlisted)
    if count:
        log.info("%s: %d images in %s are not listed", file, count, image_dir)
    if not (seen or found.problems):
        found.problems.append(f"{file}: the file lists no image")
    return found


def _entries(directory: Path) -> Iterator[Path]:
    return iter(sorted(directory.iterdir(), key=lambda path: path.name))


def normal_name(name: str) -> str:
    """One spelling of letters with accents, which file systems store in two ways."""
    return unicodedata.normalize("NFC", name)
