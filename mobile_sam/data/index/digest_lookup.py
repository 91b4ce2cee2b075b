"""Digests of images, by the million: which are where, in arrays of 16 bytes each."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16
# (N,) of dtype S16. NumPy drops zeros at the end of a single one, but compares as with them.
Digests = NDArray[np.bytes_]


def as_digests(content: bytes) -> Digests:
    """Digests of N * 16 bytes that follow each other."""
    return np.frombuffer(content, dtype=f"S{DIGEST_BYTES}")


def from_hex(digests: Iterable[str]) -> Digests:
    """Digests of their hexadecimal forms."""
    return as_digests(bytes.fromhex("".join(digests)))


def to_hex(digest: bytes) -> str:
    """The hexadecimal form of a single digest of an array."""
    return digest.ljust(DIGEST_BYTES, b"\0").hex()


def unique_digests(digests: Digests) -> Digests:
    """The same digests in order, without those that were there before."""
    _, first = np.unique(digests, return_index=True)
    return digests[np.sort(first)]


class DigestLookup:
    """Position of each digest in an unsorted array; the first position of repeated digests."""

    def __init__(self, digests: Digests) -> None:
        self._order = np.argsort(digests, kind="stable")
        self._sorted = digests[self._order]

    def get(self, digest: bytes) -> int | None:
        """The place of a digest; None where it is not there."""
        wanted = np.bytes_(digest.rstrip(b"\0"))
        place = int(np.searchsorted(self._sorted, wanted))
        found = place < len(self._sorted) and self._sorted[place] == wanted
        return int(self._order[place]) if found else None

    def __getitem__(self, digest: bytes) -> int:
        place = self.get(digest)
        if place is None:
            raise KeyError(to_hex(digest))
        return place
