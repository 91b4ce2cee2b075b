"""Listing of directories with images and annotations, without hidden and system files."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR

from mobile_sam.system.atomic_files import atomic_write
from mobile_sam.system.errors import UserError

# Files and directories that systems and tools create; most others begin with a dot.
_SYSTEM_NAMES = frozenset(
    {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}
)
# This file marks a directory that the package wrote, which is never read as input.
OUTPUT_MARK = "written_by_mobile_sam.txt"
# Files with names of classes: for YOLO labels, for CVAT's colours, and YOLO's description of data.
CLASS_NAMES, COLOUR_NAMES = "classes.txt", "labelmap.txt"
DATA_YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_MESSAGES = {
    errno.ENOENT: "there is no such directory; check the path",
    errno.ENOTDIR: "this is a file, not a directory; check the path",
    errno.EACCES: "this user has no permission to read the directory; change its permissions",
    errno.ELOOP: "this is a link to itself; remove it",
}


def path_stamp(path: Path) -> str:
    """Describe the size and time of a file, or those of all files of a directory."""
    stat = path.stat()
    if not S_ISDIR(stat.st_mode):
        return f"{stat.st_size} {stat.st_mtime_ns}"
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return " ".join(f"{each.relative_to(path)} {path_stamp(each)}" for each in files)


def naming_files(annotations: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the files with these names in a directory of annotations and the two above it."""
    directories = (annotations, *annotations.parents[:2])
    return [path for d in directories for name in names if (path := d / name).is_file()]


def is_data_name(name: str) -> bool:
    """Return whether a name may be that of data: it is neither hidden nor a system file."""
    return not name.startswith(".") and name.lower() not in _SYSTEM_NAMES


def is_output(directory: Path) -> bool:
    """Return whether this package wrote the directory; then it is not read as input."""
    return (directory / OUTPUT_MARK).exists()


def mark_output(directory: Path) -> None:
    """Create a directory of results, and mark it so that it is not read as input."""
    directory.mkdir(parents=True, exist_ok=True)
    mark = directory / OUTPUT_MARK
    if not mark.exists():
        with atomic_write(mark) as unfinished:
            unfinished.write_text(
                "mobile_sam wrote this directory. It is not read as input.\n",
                encoding="utf-8",
            )


@dataclass(frozen=True)
class Listing:
    """Entries of a directory, sorted by name. broken: links whose target is missing."""

    files: list[Path]
    directories: list[Path]
    broken: list[Path]


def list_directory(directory: Path, skipped: list[Path] | None = None) -> Listing:
    """List a directory of data, without hidden files, system files and outputs of this package.

    skipped: list to which the skipped entries are added.
    Raises UserError for a directory that cannot be read. Only links need an extra system call.
    """
    listing = Listing([], [], [])
    try:
        with os.scandir(directory) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        problem = _MESSAGES.get(
            error.errno or 0, f"the directory cannot be read ({error.strerror})"
        )
        raise UserError(f"{directory}: {problem}") from error
    for entry in entries:
        path, is_directory = Path(entry.path), _is_directory(entry)
        is_data = is_data_name(entry.name) and entry.name != OUTPUT_MARK
        if not is_data or (is_directory and is_output(path)):
            if skipped is not None:
                skipped.append(path)
        elif is_directory:
            listing.directories.append(path)
        elif entry.is_symlink() and not path.exists():
            listing.broken.append(path)
        else:
            listing.files.append(path)
    return listing


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself counts as broken
        return False
