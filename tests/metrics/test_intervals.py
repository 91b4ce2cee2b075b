import itertools
import math
import time
import tracemalloc

import numpy as np
import pytest

from mobile_sam.metrics.intervals import holm, paired_difference

Sums = tuple[np.ndarray, np.ndarray, np.ndarray]


def images(number: int, rng: np.random.Generator, effect: float = 0.02) -> Sums:
    """Sums of two checkpoints and counts: an image's objects share a part of the difference."""
    counts = rng.integers(1, 12, number)
    quality, change = rng.uniform(0.4, 0.9, number), rng.normal(effect, 0.05, number)
    second = counts * quality + rng.normal(0, 0.05, number) * np.sqrt(counts)
    first = second + counts * change + rng.normal(0, 0.02, number) * np.sqrt(counts)
    return first, second, counts


def test_the_difference_is_that_of_the_means_over_objects() -> None:
    found = paired_difference([1.8, 0.3], [1.0, 0.6], [2, 1])
    assert found.difference == pytest.approx((1.8 + 0.3) / 3 - (1.0 + 0.6) / 3)


def test_p_value_and_interval_are_those_of_all_sign_flips_and_subsets() -> None:
    first, second, counts = images(7, np.random.default_rng(0))
    found = paired_difference(first, second, counts)
    apart = first - second
    flips = np.array(list(itertools.product([1, -1], repeat=7))) @ apart
    above = np.mean(flips >= apart.sum() - 1e-12)
    below = np.mean(flips <= apart.sum() + 1e-12)
    assert found.p_value == pytest.approx(min(1, 2 * min(above, below)))
    subsets = [list(s) for k in range(1, 8) for s in itertools.combinations(range(7), k)]
    ratios = sorted(apart[s].sum() / counts[s].sum() for s in subsets)
    # 2.5 % of 128 are 3.2: three are left out at either end.
    assert (found.low, found.high) == pytest.approx((ratios[2], ratios[-3]))
    assert found.smallest_p == 2 / 128


@pytest.mark.parametrize(("number", "supported"), [(2, False), (5, False), (6, True), (14, True)])
def test_a_verdict_needs_six_images(number: int, supported: bool) -> None:
    found = paired_difference(np.full(number, 0.9), np.full(number, 0.1), np.ones(number))
    assert (found.p_value <= 0.05) == supported
    assert (found.smallest_p <= 0.05) == supported
    assert math.isnan(found.low) == (not supported)


@pytest.mark.parametrize("number", [6, 9, 13, 14, 30])
def test_zero_lies_outside_exactly_where_p_is_small(number: int) -> None:
    rng = np.random.default_rng(number)
    for effect in (0, 0.01, 0.02, 0.04):
        found = paired_difference(*images(number, rng, effect))
        assert (found.p_value <= 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize("number", [6, 8, 12, 20])
def test_equal_checkpoints_differ_beyond_chance_in_5_percent_at_most(number: int) -> None:
    rng = np.random.default_rng(number)
    p_values = [
        paired_difference(*images(number, rng, 0), subsets=999).p_value for _ in range(1000)
    ]
    assert 0.01 < np.mean(np.array(p_values) <= 0.05) < 0.065


def test_holm_is_that_of_its_table() -> None:
    # 0.01 x 4; 0.02 x 3 = 0.06; 0.03 x 2 = 0.06; 0.9
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_95_percent_of_the_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    # By symmetry the mean over objects is the effect.
    found = [paired_difference(*images(50, rng), seed=k) for k in range(400)]
    held = np.mean([one.low <= 0.02 <= one.high for one in found])
    assert 0.91 <= held <= 0.98
    naive = []
    for _ in range(400):  # objects as if they were images: an interval that promises too much
        first, second, counts = images(50, rng)
        change = np.repeat((first - second) / counts, counts)
        width = 1.96 * change.std() / np.sqrt(len(change))
        naive.append(abs(change.mean() - 0.02) <= width)
    assert np.mean(naive) < 0.75


def test_pairing_makes_the_interval_narrow() -> None:
    first, second, counts = images(80, np.random.default_rng(2))
    paired = paired_difference(first, second, counts)
    order = np.random.default_rng(0).permutation(80)
    equal = np.full(80, counts.mean())
    unpaired = paired_difference(first, second[order], equal)
    assert unpaired.high - unpaired.low > 3 * (paired.high - paired.low)


def test_two_calls_are_equal_and_seeds_differ() -> None:
    some = images(40, np.random.default_rng(4))
    assert paired_difference(*some) == paired_difference(*some)
    assert paired_difference(*some) != paired_difference(*some, seed=1)


def test_the_same_checkpoint_twice_has_no_width() -> None:
    first, _, counts = images(20, np.random.default_rng(5))
    assert paired_difference(first, first, counts).p_value == 1
    found = paired_difference(first, first, counts)
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_one_image_has_no_interval() -> None:
    found = paired_difference([3.0], [2.0], [4])
    assert found.difference == 0.25
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.p_value == 1


@pytest.mark.parametrize(
    "sums",
    [
        ([], [], []),
        ([1.0], [1.0, 2.0], [1, 1]),
        ([1.0, math.nan], [1.0, 2.0], [1, 1]),
        ([1.0, 2.0], [1.0, 2.0], [1, 0]),
        ([[1.0]], [[1.0]], [[1]]),
    ],
)
def test_incomplete_images_are_refused(sums: tuple[list[float], ...]) -> None:
    with pytest.raises(ValueError, match="image"):
        paired_difference(*sums)


def test_5000_images_take_seconds_and_little_memory() -> None:
    some = images(5000, np.random.default_rng(6))
    tracemalloc.start()
    began = time.perf_counter()
    paired_difference(*some)
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 10
    assert peak < 100 * 2**20
