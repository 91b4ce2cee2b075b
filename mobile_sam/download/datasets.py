"""Public data sets that are fetched on demand and unpacked into the ordinary layout."""

import hashlib
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mobile_sam.config import DIRECTORY_KEYS, RunConfig
from mobile_sam.faults import naming
from mobile_sam.fetch import FetchError, cache_dir, check_answers, fetch_file


@dataclass(frozen=True)
class KnownDataset:
    """An archive of `<id>/images/<id>.png` and `<id>/masks/*.png`, and where it is unpacked.

    val_share: of the images, chosen by a digest of their ids.
    """

    name: str
    url: str
    sha256: str
    directory: str
    val_share: float = 0.15

    @property
    def archive(self) -> Path:
        return cache_dir() / self.url.rsplit("/", 1)[1]

    @property
    def manifest(self) -> Path:
        """Says that the data set is complete."""
        return Path(self.directory) / "dataset.txt"

    def directories(self) -> dict[str, str]:
        """The settings of a run on this data set."""
        parts = (f"{split}/{part}" for split in ("train", "val") for part in ("image", "mask"))
        return dict(
            zip(DIRECTORY_KEYS, (f"{self.directory}/{part}" for part in parts), strict=True)
        )


# BBBC038 (2018 Data Science Bowl, stage 1 train, CC0), with the corrected annotations that its
# own page recommends. The hash is the one that torch-em publishes.
KNOWN_DATASETS = {
    "nuclei": KnownDataset(
        "nuclei",
        "https://github.com/ibmua/data-science-bowl-2018-train-set/raw/master/train-hand.zip",
        "d218b8706cd7b9a2d7171268a6e99c7b0e94605af46521ff2ffd5a17708b1af6",
        "data/nuclei",
    ),
}


def known_dataset(config: RunConfig) -> KnownDataset | None:
    """The public data set that the run's directories name, if they name one."""
    given = {key: getattr(config, key) for key in DIRECTORY_KEYS}
    return next((d for d in KNOWN_DATASETS.values() if d.directories() == given), None)


def check_available(dataset: KnownDataset) -> None:
    """Raise FetchError unless the data set is unpacked, in the cache, or its host answers."""
    if not (dataset.manifest.is_file() or dataset.archive.is_file()):
        check_answers(dataset.url, f"data set {dataset.name!r}", dataset.archive)


def fetch_dataset(name: str) -> Path:
    """Download and unpack a data set unless it is there; returns its directory.

    What is unpacked appears at once, when it is complete. Raises FetchError when the download
    fails, the directory holds something else, or the archive is not what it should be.
    """
    dataset = KNOWN_DATASETS[name]
    target = Path(dataset.directory)
    if dataset.manifest.is_file():
        return target
    if target.exists() and any(target.iterdir()):
        raise FetchError(f"data set {name!r}: {target} holds other files; move them elsewhere")
    archive = fetch_file(dataset.url, dataset.sha256, dataset.archive, f"data set {name!r}")
    unfinished = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)
    with naming(unfinished):
        count = unpack(archive, unfinished, dataset.val_share)
    (unfinished / dataset.manifest.name).write_text(f"{count} images of {dataset.url}\n")
    if target.exists():
        target.rmdir()
    unfinished.rename(target)
    return target


def unpack(archive: Path, target: Path, val_share: float) -> int:
    """Unpack `[…/]<id>/images/*` and `[…/]<id>/masks/*` as `<split>/{image,mask}`.

    Returns the number of images. Raises FetchError for a member that leaves the folder or is no
    plain file, and for an archive without images.
    """
    count = 0
    with zipfile.ZipFile(archive) as content:
        for member in _members(content, archive):
            path = PurePosixPath(member.filename)
            if len(path.parts) < 3 or path.parts[-2] not in {"images", "masks"}:
                continue
            image_id, kind = path.parts[-3], path.parts[-2]
            place = target / split_of(image_id, val_share)
            if kind == "images":
                place = place / "image" / f"{image_id}{path.suffix}"
                count += 1
            else:
                place = place / "mask" / image_id / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            with content.open(member) as source, place.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    if count == 0:
        raise FetchError(f"{archive}: there is no <id>/images/ in the archive")
    return count


def _members(content: zipfile.ZipFile, archive: Path) -> Iterator[zipfile.ZipInfo]:
    for member in content.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or ":" in member.filename or is_link:
            raise FetchError(
                f"{archive}: refused, because its member {member.filename!r} leaves the folder"
            )
        if not member.is_dir():
            yield member


def split_of(image_id: str, val_share: float) -> str:
    """`train` or `val`: a function of the id alone, so that more images move none."""
    place = int(hashlib.sha256(image_id.encode()).hexdigest()[:8], 16) / 16**8
    return "val" if place < val_share else "train"
