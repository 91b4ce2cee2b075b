"""Leakage: validation images that are also training images."""

from pathlib import Path

from mobile_sam.config.sections import Data
from mobile_sam.data.index.digest_lookup import DigestLookup
from mobile_sam.data.index.table import SPLITS, Index, index_metadata, open_index


def check_leakage(index: Path, options: Data) -> list[str]:
    """Return an error message for each validation image whose bytes equal a training image's.

    index: path of the index. There are none if `options.duplicates` allows them.
    """
    counts = index_metadata(open_index(index))["splits"]
    if options.duplicates == "allow" or any(
        split not in counts or counts[split]["images"] == 0 for split in SPLITS
    ):
        return []
    train, val = (Index(index, split) for split in SPLITS)
    positions = DigestLookup(train.digests())
    pairs = ((v, positions.get(digest)) for v, digest in enumerate(val.digests().tolist()))
    return [
        f"{val[v].path}: the same image as the training image {train[t].path}; remove one, keep "
        "both together with data.groups, or set data.duplicates to 'allow'"
        for v, t in pairs
        if t is not None
    ]
