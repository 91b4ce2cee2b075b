"""Leakage: validation images that are, or look like, training images."""

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobile_sam.config.sections import Data
from mobile_sam.data.images import NO_HASH
from mobile_sam.data.index.digest_lookup import DigestLookup
from mobile_sam.data.index.table import SPLITS, Index

Hashes = NDArray[np.uint64]  # perceptual hashes, see `images.perceptual_hash`
_MAX_DIFFERING_BITS = 3  # between the hashes of images that look alike
_BLOCKS = 4  # one more than differing bits: two such hashes agree in at least one block
_SHOWN_PAIRS = 3


def check_leakage(
    index: Path, hashes: dict[str, list[int]], options: Data, notes: list[str]
) -> list[str]:
    """Return an error message for each validation image that is also a training image.

    index: path of the index. hashes: perceptual hashes of the images in use of each split, in
    order. notes: receives a sentence about images that look alike.
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
            0,  # the first notes are shown, the others only counted
            f"{len(alike)} of {len(val)} validation images look like a training image ({shown}"
            f"{', ...' if len(alike) > _SHOWN_PAIRS else ''}); if they show the same object, keep "
            "them together with data.groups",
        )
    return [] if options.duplicates == "allow" else identical


def exact_duplicates(index: Path) -> list[str]:
    """Return a sentence for each validation image whose bytes equal those of a training image."""
    train, val = Index(index, "train"), Index(index, "val")
    positions = DigestLookup(train.digests())
    pairs = ((v, positions.get(digest)) for v, digest in enumerate(val.digests().tolist()))
    return [
        f"{val[v].path}: the same image as the training image {train[t].path}; remove one, keep "
        "both together with data.groups, or set data.duplicates to 'allow'"
        for v, t in pairs
        if t is not None
    ]


def near_duplicates(train: Hashes, val: Hashes) -> dict[int, int]:
    """Return the position of a similar training image, by position of the validation image.

    Hashes of similar images differ in at most 3 of 64 bits. Images without a hash are left out.
    """
    similar: dict[int, int] = {}
    for block in range(_BLOCKS):
        parts = _hash_block(train, block)
        order = np.argsort(parts, kind="stable")
        ordered = parts[order]
        for position, value in enumerate(val.tolist()):
            if position in similar or value == NO_HASH:
                continue
            part = _hash_block(np.array([value], dtype=np.uint64), block)[0]
            first, last = np.searchsorted(ordered, [part, part + 1])
            candidates = order[first:last]
            bits = np.bitwise_count(train[candidates] ^ np.uint64(value))
            bits[train[candidates] == NO_HASH] = 64
            if len(bits) and bits.min() <= _MAX_DIFFERING_BITS:
                similar[position] = int(candidates[bits.argmin()])
    return dict(sorted(similar.items()))


def _hash_block(hashes: Hashes, block: int) -> NDArray[np.int64]:
    return (hashes >> np.uint64(16 * block) & np.uint64(0xFFFF)).astype(np.int64)
