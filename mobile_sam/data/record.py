"""Records: an image and the files of its annotations, in any format; the state of a search."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import NamedTuple

import msgspec

from mobile_sam.config.sections import Data
from mobile_sam.data.images import IMAGE_SUFFIXES
from mobile_sam.data.masks import Size
from mobile_sam.data.ome_zarr import is_ome_zarr
from mobile_sam.system.directories import list_directory, path_stamp


class ListedAnnotation(NamedTuple):
    """Annotation in a JSON file. segmentation: JSON text of polygons or of a run-length code."""

    segment_id: str
    category: str | None
    crowd: bool
    segmentation: msgspec.Raw


class ListedImage(NamedTuple):
    """Image in a JSON file for all images. size: (H, W) in the file; None if the file has none."""

    file_name: str
    size: Size | None
    objects: tuple[ListedAnnotation, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Image with the files of its annotations.

    format: a row of `formats.FORMATS`.
    sources: annotation files: one for each segment, or one for all of them.
    shared: whether `sources` is one file for all images.
    objects, size: annotations and (H, W) of this image in that file.
    """

    image_id: str
    image_path: Path
    format: str
    sources: tuple[Path, ...]
    objects: tuple[ListedAnnotation, ...] = ()
    size: Size | None = None
    shared: bool = False

    def stamp(self) -> Iterator[bytes | memoryview]:
        """Yield a description that changes with the image or its annotations: sizes and times."""
        yield f"{self.image_path} {self.image_id} {self.format} {self.size}".encode()
        for path in (self.image_path, *(() if self.shared else self.sources)):
            yield f"{path} {path_stamp(path)}".encode()
        yield repr([item[:3] for item in self.objects]).encode()
        for item in self.objects:
            yield memoryview(item.segmentation)


@dataclass
class SearchResult:
    """Records in order of their ids.

    problems: a sentence for each file without a counterpart. notes: sentences about files that were
    skipped or matched by another name.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_LISTED_PATHS = 3  # paths that a note lists


@dataclass
class Search:
    """State of a search for records.

    options: those of the data set.
    roots: directories in which the search began, images first.
    result: records, problems and notes so far.
    hidden, unread: files that are skipped, and files of unknown kinds.
    by_ending: number of annotations matched to an image without this ending in its name.
    ambiguous: ids of several images, none of which becomes a record.
    """

    options: Data
    roots: tuple[Path, ...]
    result: SearchResult = field(default_factory=SearchResult)
    hidden: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    by_ending: Counter[str] = field(default_factory=Counter)
    ambiguous: set[str] = field(default_factory=set)

    def entries(self, directory: Path) -> tuple[list[Path], list[Path]]:
        """Return files and subdirectories; a broken link is a problem."""
        listing = list_directory(directory, self.hidden)
        self.result.problems += [
            f"{path}: the link leads to {path.readlink()}, which is not there; fetch the file, or "
            "remove the link"
            for path in listing.broken
        ]
        images = [path for path in listing.directories if is_ome_zarr(path)]
        directories = [path for path in listing.directories if path not in images]
        return sorted([*listing.files, *images]) if images else listing.files, directories

    def images(self, files: Iterable[Path], prefix: str) -> dict[str, Path]:
        """Return images by their ids; two images with the same id are a problem."""
        images: dict[str, Path] = {}
        for path in files:
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            stem = path.stem.removesuffix(".ome") if is_ome_zarr(path) else path.stem
            image_id = prefix + normalise_name(stem)
            if image_id in images:
                other = images[image_id].name
                self.result.problems.append(f"{path}: {other} has the same name; rename one")
                self.ambiguous.add(image_id)
            images[image_id] = path
        return images

    def is_loop(self, directory: Path, above: tuple[str, ...]) -> bool:
        """Return whether a link makes a directory its own ancestor; such a link is a problem."""
        if realpath(directory) not in above:
            return False
        self.result.problems.append(
            f"{directory}: the link leads to a directory above it; remove the link"
        )
        return True

    def finished(self) -> SearchResult:
        """Return all records in order, with notes on the files that were skipped."""
        records = [r for r in self.result.records if r.image_id not in self.ambiguous]
        self.result.records = sorted(records, key=lambda record: record.image_id)
        notes = self.result.notes
        if self.hidden:
            notes.append(f"skipped: {format_paths(self.hidden, 'hidden or system files')}")
        if self.unread:
            notes.append(f"not read: {format_paths(self.unread, 'files or directories')}")
        for ending, count in sorted(self.by_ending.items()):
            notes.append(
                f"{count} annotations are matched to images without {ending!r} in the name"
            )
        return self.result


def format_paths(paths: list[Path], noun: str) -> str:
    """Return the number of paths and the first of them, for a note: `1 images (a/b.png)`."""
    names = ", ".join(str(path) for path in paths[:_LISTED_PATHS])
    return f"{len(paths)} {noun} ({names}{', ...' if len(paths) > _LISTED_PATHS else ''})"


def normalise_name(name: str) -> str:
    """Return the name with composed accents; file systems store them composed or decomposed."""
    return unicodedata.normalize("NFC", name)
