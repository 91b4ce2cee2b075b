"""Digests in arrays: none is mistaken for another, whatever bytes it ends in."""

import random

import pytest

from mobile_sam.data.index.build import images_per_group
from mobile_sam.data.index.digest_lookup import (
    DigestLookup,
    as_digests,
    from_hex,
    to_hex,
    unique_digests,
)

LIKE_EACH_OTHER = [bytes([7]) * n + bytes(16 - n) for n in range(17)]


def test_zeros_at_the_end_belong_to_a_digest() -> None:
    digests = as_digests(b"".join(LIKE_EACH_OTHER))
    places = DigestLookup(digests)
    assert [places[digest] for digest in LIKE_EACH_OTHER] == list(range(17))
    assert [places[digest] for digest in digests] == list(range(17))
    assert [to_hex(digest) for digest in digests] == [digest.hex() for digest in LIKE_EACH_OTHER]
    assert from_hex(map(to_hex, digests)).tolist() == digests.tolist()


def test_what_is_not_there_is_not_found() -> None:
    places = DigestLookup(as_digests(b"".join(LIKE_EACH_OTHER[:8])))
    assert places.get(LIKE_EACH_OTHER[8]) is None
    assert DigestLookup(as_digests(b"")).get(LIKE_EACH_OTHER[8]) is None
    with pytest.raises(KeyError, match="07070707070707070000"):
        places[LIKE_EACH_OTHER[8]]


def test_the_first_of_equal_digests_counts_and_order_stays() -> None:
    shuffled = random.Random(0).sample(LIKE_EACH_OTHER, 17)
    digests = as_digests(b"".join([*shuffled, *reversed(shuffled)]))
    assert unique_digests(digests).tolist() == digests[:17].tolist()
    assert [DigestLookup(digests)[digest] for digest in shuffled] == list(range(17))


@pytest.mark.parametrize(
    ("images", "size"),
    [(1, 64), (16_384, 64), (100_000, 391), (1_100_000, 1024), (11_000_000, 5372)],
)
def test_row_groups_stay_few_and_small(images: int, size: int) -> None:
    assert images_per_group(images) == size
