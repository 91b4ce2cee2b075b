"""Images that train and validate at once: equal bytes, and pictures that look alike."""

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.config.sections import Data
from mobile_sam.data.images import NO_HASH
from mobile_sam.data.index.digest_lookup import DigestLookup
from mobile_sam.data.index.table import SPLITS, Index

Hashes = NDArray[np.uint64]  # perceptual hashes, see `images.perceptual_hash`
_MAX_DIFFERING_BITS = 3  # that differ between hashes of pictures that look alike
_BLOCKS = 4  # one more than that: of so many parts of a hash at least one is equal
_SHOWN_PAIRS = 3


def check_leakage(
    index: Path, hashes: dict[str, list[int]], options: Data, notes: list[str]
) -> list[str]:
    """Return an error message for each validation image that is a training image as well.

    index: the index file. hashes: perceptual hashes of the images in use of each split, in order.
    notes: gets a sentence on images that look alike.
    """
    if not all(hashes.get(split) for split in SPLITS):
        return []
    identical = exact_duplicates(index)
    train, val = (np.array(hashes[split], dtype=np.uint64) for split in SPLITS)
    alike = near_duplicates(train, val)
    if len(alike) > len(identical):
        trains, validates = (Index(index, split) for split in SPLITS)
        shown = ", ".join(
            f"{validates[v].image_id} and {trains[t].image_id}"
            for v, t in islice(alike.items(), _SHOWN_PAIRS)
        )
        notes.insert(
            0,  # before all that is shown only in part
            f"{len(alike)} of {len(val)} validation images look like a training image ({shown}"
            f"{', ...' if len(alike) > _SHOWN_PAIRS else ''}); if they show the same thing, keep "
            "them together with data.groups",
        )
    return [] if options.duplicates == "allow" else identical


def exact_duplicates(index: Path) -> list[str]:
    """Return a sentence for each validation image whose bytes are those of a training image."""
    train, val = Index(index, "train"), Index(index, "val")
    places = DigestLookup(train.digests())
    found = ((n, places.get(digest)) for n, digest in enumerate(val.digests().tolist()))
    return [
        f"{val[n].path}: the same image as {train[place].path}, which trains; remove one, keep "
        "both together with data.groups, or set data.duplicates to 'allow'"
        for n, place in found
        if place is not None
    ]


def near_duplicates(train: Hashes, val: Hashes) -> dict[int, int]:
    """Return the places of validation images that look like a training image, and which.

    At most 3 of 64 bits differ. Images without a hash are left out.
    """
    found: dict[int, int] = {}
    for block in range(_BLOCKS):
        parts = _hash_block(train, block)
        order = np.argsort(parts, kind="stable")
        ordered = parts[order]
        for place, value in enumerate(val.tolist()):
            if place in found or value == NO_HASH:
                continue
            part = _hash_block(np.array([value], dtype=np.uint64), block)[0]
            first, last = np.searchsorted(ordered, [part, part + 1])
            near = order[first:last]
            bits = np.bitwise_count(train[near] ^ np.uint64(value))
            bits[train[near] == NO_HASH] = 64
            if len(bits) and bits.min() <= _MAX_DIFFERING_BITS:
                found[place] = int(near[bits.argmin()])
    return dict(sorted(found.items()))


def _hash_block(hashes: Hashes, block: int) -> NDArray[np.int64]:
    return (hashes >> np.uint64(16 * block) & np.uint64(0xFFFF)).astype(np.int64)
