"""Images that a JSON file for all of them lists: the files behind the names, however written."""

import unicodedata
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from mobile_sam.data.formats.coco import CocoImage
from mobile_sam.data.formats.json_files import json_bytes
from mobile_sam.data.formats.label_studio import strip_upload_prefix
from mobile_sam.data.formats.registry import FORMATS
from mobile_sam.data.images import IMAGE_SUFFIXES, RecordError
from mobile_sam.data.record import Record, Search, format_paths, normalise_name

_NAMED = 3  # names that a note lists


def find_listed_records(search: Search, image_dir: Path, file: Path) -> None:
    """Find the images that a COCO file, or an export of Label Studio, lists.

    Records, problems and notes are added to `search`.
    """
    found = search.found
    try:
        content = json_bytes(file)
        format_, list_images = next(
            (name, row.list_images)
            for name, row in FORMATS.items()
            if row.list_images and row.matches and row.matches(content)
        )
        images = list(list_images(file, content, found.problems))
    except RecordError as error:
        found.problems.append(str(error))
        return
    names = _FileFinder(search, image_dir, file)
    for image in images:
        path = names.path_of(image)
        if path is not None:
            image_id = names.image_id(path)
            given = (file,), image.objects, image.size, True
            found.records.append(Record(image_id, path, format_, *given))
    names.note_unlisted()
    if not (images or found.problems):
        found.problems.append(f"{file}: the file lists no image")


class _FileFinder:
    """The files behind the names that a file for all images lists.

    A name may have backslashes, another spelling of accents, or directories that are not there;
    it is found where one file fits, and noted.
    """

    def __init__(self, search: Search, image_dir: Path, file: Path) -> None:
        self._found, self._directory, self._file = search.found, image_dir, file
        files, _ = search.entries(image_dir)
        self._files = {normalise_name(path.name): path for path in files}
        self._seen: dict[Path, str] = {}
        self._otherwise: list[str] = []

    def image_id(self, path: Path) -> str:
        """The id of an image: its path below the directory, without the suffix."""
        return normalise_name(path.relative_to(self._directory).with_suffix("").as_posix())

    def path_of(self, image: CocoImage) -> Path | None:
        """The file of an image; None, with a problem, where there is none."""
        name = image.file_name
        relative = PurePosixPath(name)
        plain = PurePosixPath(name.replace("\\", "/"))
        if plain.is_absolute() or ".." in plain.parts or not plain.name:
            hint = f"write {plain.name!r} instead" if plain.name in self._files else ""
            self._found.problems.append(
                f"{self._file}: file_name {name!r} leaves {self._directory}; make it relative"
                f"{hint and f' ({hint})'}"
            )
            return None
        path = self._existing(relative) or self._existing(plain)
        if path is None:
            path = self._elsewhere(plain)
            if path is None:
                backslash = " (its backslashes are read as /)" if "\\" in name else ""
                self._found.problems.append(
                    f"{self._file}: there is no image {self._directory / plain}; put it there"
                    f"{backslash}"
                )
                return None
            self._otherwise.append(f"{name!r} as {path.relative_to(self._directory)}")
        elif "\\" in name:
            self._otherwise.append(f"{name!r} as {path.relative_to(self._directory)}")
        if path in self._seen:
            self._found.problems.append(
                f"{self._file}: {name!r} and {self._seen[path]!r} are one image; keep one"
            )
            return None
        self._seen[path] = name
        return path

    def _existing(self, name: PurePosixPath) -> Path | None:
        """The file of a name, in either spelling of accents."""
        if len(name.parts) == 1:
            return self._files.get(normalise_name(name.name))
        for form in ("NFC", "NFD"):
            path = self._directory / unicodedata.normalize(form, name.as_posix())
            if path.is_file():
                return path
        path = self._directory / name
        return path if path.is_file() else None

    def _elsewhere(self, name: PurePosixPath) -> Path | None:
        """The file behind the last parts of a name, with the marks of tools taken off."""
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

    def note_unlisted(self) -> None:
        """Note images that are not listed, and names that were found elsewhere."""
        listed = {path.name for path in self._seen}
        unlisted = [
            path
            for name, path in self._files.items()
            if path.suffix.lower() in IMAGE_SUFFIXES and path.name not in listed
        ]
        if unlisted:
            found = format_paths(unlisted, "images")
            self._found.notes.append(f"not listed in {self._file}: {found}")
        if self._otherwise:
            shown = ", ".join(self._otherwise[:_NAMED])
            self._found.notes.append(
                f"{self._file}: {len(self._otherwise)} names are read otherwise: {shown}"
            )
