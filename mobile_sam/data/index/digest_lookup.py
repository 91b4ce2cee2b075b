"""Digests of millions of images: arrays of 16 bytes each, and the position of a digest in them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
# (N,) of dtype S16. NumPy drops trailing zeros of a single element, but compares as with them.
Digests = NDArray[np.bytes_]


def as_digests(content: bytes) -> Digests:
    """Return the N digests in N * 16 consecutive bytes."""
    return np.frombuffer(content, dtype=f"S{DIGEST_BYTES}")


def from_hex(digests: Iterable[str]) -> Digests:
    """Return the digests with these hexadecimal forms."""
    return as_digests(bytes.fromhex("".join(digests)))


def to_hex(digest: bytes) -> str:
    """Return the hexadecimal form of a single digest of an array."""
    return digest.ljust(DIGEST_BYTES, b"\0").hex()


def unique_digests(digests: Digests) -> Digests:
    """Return the digests without repetitions, in the order of their first occurrence."""
    _, first = np.unique(digests, return_index=True)
    return digests[np.sort(first)]


class DigestLookup:
    """Position of each digest in an unsorted array; the first position of repeated digests."""

    def __init__(self, digests: Digests) -> None:
        self._order = np.argsort(digests, kind="stable")
        self._sorted = digests[self._order]

    def get(self, digest: bytes) -> int | None:
        """Return the position of a digest, or None if the array does not contain it."""
        key = np.bytes_(digest.rstrip(b"\0"))
        rank = int(np.searchsorted(self._sorted, key))
        present = rank < len(self._sorted) and self._sorted[rank] == key
        return int(self._order[rank]) if present else None

    def __getitem__(self, digest: bytes) -> int:
        position = self.get(digest)
        if position is None:
            raise KeyError(to_hex(digest))
        return position
