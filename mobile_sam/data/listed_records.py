"""Records of a JSON file for all images: the image files that its names refer to."""

import errno
import unicodedata
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from mobile_sam.data.formats.label_studio import strip_upload_prefix
from mobile_sam.data.formats.registry import FORMATS
from mobile_sam.data.formats.text_files import json_bytes
from mobile_sam.data.images import IMAGE_SUFFIXES, RecordError
from mobile_sam.data.ome_zarr import is_ome_zarr
from mobile_sam.data.record import ListedImage, Record, Search, format_paths, normalise_name

_LISTED_NAMES = 3  # names that a note lists


def find_listed_records(search: Search, image_dir: Path, file: Path) -> None:
    """Find the images that a COCO file or a Label Studio export lists.

    Records, problems and notes are added to `search`.
    """
    result = search.result
    try:
        content = json_bytes(file)
        format_, list_images = next(
            (name, row.list_images)
            for name, row in FORMATS.items()
            if row.list_images and row.matches and row.matches(content)
        )
        images = list(list_images(file, content, result.problems))
    except RecordError as error:
        result.problems.append(str(error))
        return
    finder = _FileFinder(search, image_dir, file)
    for image in images:
        path = finder.path_of(image)
        if path is not None:
            image_id = finder.image_id(path)
            result.records.append(
                Record(image_id, path, format_, (file,), image.objects, image.size, shared=True)
            )
    finder.add_notes()
    if not (images or result.problems):
        result.problems.append(f"{file}: the file lists no image; export it again")


class _FileFinder:
    """Finder of the image files that a file for all images names.

    A name may have backslashes, accents in another normal form, or directories that do not exist.
    The file is found by the last parts of its path, and a note says so.
    """

    def __init__(self, search: Search, image_dir: Path, file: Path) -> None:
        self._result, self._directory, self._file = search.result, image_dir, file
        files, _ = search.entries(image_dir)
        self._files = {normalise_name(path.name): path for path in files}
        self._names: dict[Path, str] = {}  # by image file
        self._resolved: list[str] = []  # names that differ from their path, for a note

    def image_id(self, path: Path) -> str:
        """Return the id of an image: its path below the directory, without the suffix."""
        return normalise_name(path.relative_to(self._directory).with_suffix("").as_posix())

    def path_of(self, image: ListedImage) -> Path | None:
        """Return the file of an image; if there is none, add a problem and return None."""
        name = image.file_name
        relative = PurePosixPath(name)
        plain = PurePosixPath(name.replace("\\", "/"))
        if plain.is_absolute() or ".." in plain.parts or not plain.name:
            hint = f" (write {plain.name!r} instead)" if plain.name in self._files else ""
            self._add_problem(
                f"file_name {name!r} points outside of {self._directory}; make it relative{hint}"
            )
            return None
        path = self._existing(relative) or self._existing(plain)
        is_exact = path is not None and "\\" not in name
        path = path or self._elsewhere(plain)
        if path is None:
            hint = " (its backslashes are read as /)" if "\\" in name else ""
            self._add_problem(f"there is no image {self._directory / plain}; add it there{hint}")
            return None
        if not is_exact:
            self._resolved.append(f"{name!r} as {path.relative_to(self._directory)}")
        if path in self._names:
            self._add_problem(f"{name!r} and {self._names[path]!r} name the same image; keep one")
            return None
        self._names[path] = name
        return path

    def _add_problem(self, message: str) -> None:
        self._result.problems.append(f"{self._file}: {message}")

    def _existing(self, name: PurePosixPath) -> Path | None:
        """Return the file of a name, with composed or decomposed accents."""
        if len(name.parts) == 1:
            return self._files.get(normalise_name(name.name))
        for form in ("NFC", "NFD"):
            path = self._directory / unicodedata.normalize(form, name.as_posix())
            if _is_file(path):
                return path
        path = self._directory / name
        return path if _is_file(path) else None

    def _elsewhere(self, name: PurePosixPath) -> Path | None:
        """Return the file that matches the last parts of a name, without prefixes of tools."""
        for base in (name, PurePosixPath(unquote(name.as_posix()))):
            for start in range(len(base.parts)):
                rest = PurePosixPath(*base.parts[start:])
                for candidate in (rest, PurePosixPath(strip_upload_prefix(rest.as_posix()))):
                    if ".." in candidate.parts or candidate.is_absolute():
                        continue
                    path = self._existing(candidate)
                    if path is not None:
                        return path
        return None

    def add_notes(self) -> None:
        """Add notes on images that are not listed, and on names that differ from their paths."""
        listed = {path.name for path in self._names}
        unlisted = [
            path
            for name, path in self._files.items()
            if path.suffix.lower() in IMAGE_SUFFIXES and path.name not in listed
        ]
        if unlisted:
            images = format_paths(unlisted, "images")
            self._result.notes.append(f"not listed in {self._file}: {images}")
        if self._resolved:
            examples = ", ".join(self._resolved[:_LISTED_NAMES])
            self._result.notes.append(
                f"{self._file}: {len(self._resolved)} file names are read as other paths: "
                f"{examples}"
            )


def _is_file(path: Path) -> bool:
    """Return whether a file is there; a name that is too long for the disk is that of none."""
    try:
        return path.is_file() or is_ome_zarr(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
