"""Leakage: validation images that are also training images."""

from collections.abc import Iterable
from pathlib import Path

from mobile_sam.config.sections import Data
from mobile_sam.data.index.digest_lookup import DigestLookup
from mobile_sam.data.index.table import SPLITS, Index, index_metadata, open_index
from mobile_sam.system.atomic_files import file_digest


def check_leakage(index: Path, options: Data) -> list[str]:
    """Return an error message for each validation image whose bytes equal a training image's.

    index: path of the index. There are none if `options.duplicates` allows them.
    """
    if options.duplicates == "allow":
        return []
    file = open_index(index)
    if options.tile is not None:
        table = file.read(columns=["split", "image_path"]).to_pandas().drop_duplicates()
        paths = {split: map(Path, table["image_path"][table["split"] == split]) for split in SPLITS}
        found = same_files(paths["train"], paths["val"])
        if found:
            return [_message(copy, original) for copy, original in found.items()]
    counts = index_metadata(file)["splits"]
    if any(split not in counts or counts[split]["images"] == 0 for split in SPLITS):
        return []
    train, val = (Index(index, split) for split in SPLITS)
    positions = DigestLookup(train.digests())
    pairs = ((v, positions.get(digest)) for v, digest in enumerate(val.digests().tolist()))
    return [_message(val[v].path, train[t].path) for v, t in pairs if t is not None]


def _message(val: Path, train: Path) -> str:
    return (
        f"{val}: the same image as the training image {train}; remove one, keep both together with "
        "data.groups, or set data.duplicates to 'allow'"
    )


def same_files(originals: Iterable[Path], others: Iterable[Path]) -> dict[Path, Path]:
    """Return the original of each other file with the same bytes.

    Only files of equal size are read. Of tiles, the index has digests of their own, and only of
    those in use.
    """
    by_size: dict[int, list[Path]] = {}
    for path in originals:
        by_size.setdefault(path.stat().st_size, []).append(path)
    digests: dict[Path, str] = {}
    found: dict[Path, Path] = {}
    for path in others:
        for original in by_size.get(path.stat().st_size, []):
            for each in (path, original):
                digests[each] = digests.get(each) or file_digest(each)
            if digests[path] == digests[original]:
                found[path] = original
    return found
