"""A record: an image and where its annotations are, whatever their format."""

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
from mobile_sam.system.directories import list_directory


class ListedAnnotation(NamedTuple):
    """One annotation. segmentation: JSON text of polygons or of a run-length code."""

    segment_id: str
    category: str | None
    crowd: bool
    segmentation: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Record:
    """One image and where its annotations are.

    format: a row of `formats.FORMATS`. sources: annotation files: one for each segment, or one for
    all of them.
    shared: whether `sources` is one file for all images; objects, size: what it says of this one;
    size is (H, W).
    """

    image_id: str
    image_path: Path
    format: str
    sources: tuple[Path, ...]
    objects: tuple[ListedAnnotation, ...] = ()
    size: Size | None = None
    shared: bool = False

    def stamp(self) -> Iterator[bytes | memoryview]:
        """Yield what changes whenever the image or its annotations do: sizes and times of files."""
        yield f"{self.image_path} {self.image_id} {self.format} {self.size}".encode()
        for path in (self.image_path, *(() if self.shared else self.sources)):
            found = path.stat()
            yield f"{path} {found.st_size} {found.st_mtime_ns}".encode()
        yield repr([item[:3] for item in self.objects]).encode()
        for item in self.objects:
            yield memoryview(item.segmentation)


@dataclass
class SearchResult:
    """Records in order of their ids.

    problems: a sentence for each file that has no counterpart. notes: sentences on what was not
    read, or read in another way than its name says.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_NAMED = 3  # files that a note lists


@dataclass
class Search:
    """Records that are found so far, and files that are passed over.

    options: those of the data set. roots: where the search began, images first.
    ambiguous: ids that several images have, none of which becomes a record.
    """

    options: Data
    roots: tuple[Path, ...]
    found: SearchResult = field(default_factory=SearchResult)
    hidden: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    by_ending: Counter[str] = field(default_factory=Counter)
    ambiguous: set[str] = field(default_factory=set)

    def entries(self, directory: Path) -> tuple[list[Path], list[Path]]:
        """Return files and subdirectories; a link that leads nowhere is a problem."""
        listing = list_directory(directory, self.hidden)
        self.found.problems += [
            f"{path}: the link leads to {path.readlink()}, which is not there; fetch the file, or "
            "remove the link"
            for path in listing.broken
        ]
        return listing.files, listing.directories

    def images(self, files: Iterable[Path], prefix: str) -> dict[str, Path]:
        """Return images by their ids; two of one id are a problem."""
        images: dict[str, Path] = {}
        for path in files:
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            image_id = prefix + normalise_name(path.stem)
            if image_id in images:
                other = images[image_id].name
                self.found.problems.append(f"{path}: {other} has the same name; rename one")
                self.ambiguous.add(image_id)
            images[image_id] = path
        return images

    def is_loop(self, directory: Path, above: tuple[str, ...]) -> bool:
        """Return whether a link makes a directory its own ancestor, which is a problem."""
        if realpath(directory) not in above:
            return False
        self.found.problems.append(
            f"{directory}: the link leads to a directory above it; remove the link"
        )
        return True

    def finished(self) -> SearchResult:
        """Return all records in order, with notes on what was passed over."""
        records = [r for r in self.found.records if r.image_id not in self.ambiguous]
        self.found.records = sorted(records, key=lambda record: record.image_id)
        if self.hidden:
            hidden = format_paths(self.hidden, "hidden or system files")
            self.found.notes.append(f"passed over, as they are no data: {hidden}")
        if self.unread:
            self.found.notes.append(
                f"not read: {format_paths(self.unread, 'files or directories')}"
            )
        for ending, count in sorted(self.by_ending.items()):
            self.found.notes.append(
                f"{count} annotations belong to an image whose name lacks {ending!r}"
            )
        return self.found


def format_paths(paths: list[Path], what: str) -> str:
    """Return the number of paths and the first of them, for a note."""
    names = ", ".join(str(path) for path in paths[:_NAMED])
    return f"{len(paths)} {what} ({names}{', ...' if len(paths) > _NAMED else ''})"


def normalise_name(name: str) -> str:
    """Return one spelling of letters with accents, which file systems store in two ways."""
    return unicodedata.normalize("NFC", name)
