"""Public data sets, downloaded on demand and unpacked into the ordinary layout."""

import fcntl
import hashlib
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mobile_sam.config.catalog import KNOWN_DATASETS, KnownDataset
from mobile_sam.download.files import (
    FetchError,
    cache_dir,
    check_host,
    fetch_file,
    writable_cache,
)
from mobile_sam.system.atomic_files import link, remove_unfinished, unfinished_path
from mobile_sam.system.locking import acquire, open_lock
from mobile_sam.system.machine_errors import naming
from mobile_sam.system.paths import output_problem


def archive_path(dataset: KnownDataset) -> Path:
    """Return the path of a data set's archive in the cache."""
    return cache_dir() / dataset.url.rsplit("/", 1)[1]


def check_available(dataset: KnownDataset) -> None:
    """Raise FetchError unless the data set is unpacked, in the cache, or its host answers."""
    if not (dataset.manifest.is_file() or archive_path(dataset).is_file()):
        writable_cache(archive_path(dataset).parent)
        check_host(dataset.url, f"data set {dataset.name!r}", archive_path(dataset))


def fetch_dataset(name: str) -> Path:
    """Download and unpack a data set unless it exists; return its directory.

    The directory appears when it is complete. Raises FetchError if the download fails, the
    directory holds other files, or the archive is wrong.
    """
    dataset = KNOWN_DATASETS[name]
    target = Path(dataset.directory)
    if dataset.complete.is_file() and not dataset.manifest.is_file():
        link(dataset.complete, dataset.manifest)
    if dataset.manifest.is_file():
        return target
    if target.is_dir() and any(target.iterdir()):
        raise FetchError(f"data set {name!r}: {target} holds other files; move them elsewhere")
    problem = output_problem(target)
    if problem:
        raise FetchError(f"data set {name!r}: {target}: {problem}")
    archive = fetch_file(dataset.url, dataset.sha256, archive_path(dataset), f"data set {name!r}")
    with open_lock(target.with_name(f".{target.name}.lock")) as lock:
        acquire(fcntl.flock, lock, fcntl.LOCK_EX)
        if not dataset.manifest.is_file():  # no other process has unpacked it meanwhile
            _unpack_atomically(dataset, archive, target)
    return target


def _unpack_atomically(dataset: KnownDataset, archive: Path, target: Path) -> None:
    """Unpack an archive next to `target`, and rename the directory when it is complete."""
    remove_unfinished(target.parent, target.name)
    unfinished = unfinished_path(target)
    with naming(target, unfinished):
        unfinished.mkdir()
        count = unpack(archive, unfinished, dataset.val_share)
        for mark in (dataset.manifest, dataset.complete):
            text = f"{count} images of {dataset.url}\n"
            (unfinished / mark.name).write_text(text, encoding="utf-8")
        if target.exists():
            target.rmdir()
        unfinished.rename(target)


def unpack(archive: Path, target: Path, val_share: float) -> int:
    """Unpack `[…/]<id>/images/*` and `[…/]<id>/masks/*` as `<split>/{image,mask}`.

    Returns the number of images. Raises FetchError for a link, for a member outside of the folder,
    and for an archive without images.
    """
    count = 0
    with zipfile.ZipFile(archive) as content:
        for member in _members(content, archive):
            path = PurePosixPath(member.filename)
            if len(path.parts) < 3 or path.parts[-2] not in {"images", "masks"}:
                continue
            image_id, kind = path.parts[-3], path.parts[-2]
            split = target / split_of(image_id, val_share)
            if kind == "images":
                file = split / "image" / f"{image_id}{path.suffix}"
                count += 1
            else:
                file = split / "mask" / image_id / path.name
            file.parent.mkdir(parents=True, exist_ok=True)
            with content.open(member) as source, file.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    if count == 0:
        raise FetchError(
            f"{archive}: there is no <id>/images/ in it; delete it, and fetch it again"
        )
    return count


def _members(content: zipfile.ZipFile, archive: Path) -> Iterator[zipfile.ZipInfo]:
    for member in content.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or ":" in member.filename or is_link:
            raise FetchError(
                f"{archive}: the archive is refused, because its member {member.filename!r} leaves "
                "the folder or is a link"
            )
        if not member.is_dir():
            yield member


def split_of(image_id: str, val_share: float) -> str:
    """Return `train` or `val`, by the id alone, so that new images do not move others."""
    fraction = int(hashlib.sha256(image_id.encode()).hexdigest()[:8], 16) / 16**8
    return "val" if fraction < val_share else "train"
