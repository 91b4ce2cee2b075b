import math
import time
import tracemalloc

import numpy as np
import pytest

from mobile_sam.metrics.intervals import Difference, paired_difference

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


def test_the_interval_is_that_of_a_loop_over_the_same_resamples() -> None:
    first, second, counts = images(60, np.random.default_rng(0))
    found = paired_difference(first, second, counts, seed=3)
    rng = np.random.default_rng(3)
    differences = []
    for chosen in rng.integers(0, 60, (2000, 60)):  # as scipy draws them
        a = sum(first[i] for i in chosen) / sum(counts[i] for i in chosen)
        b = sum(second[i] for i in chosen) / sum(counts[i] for i in chosen)
        differences.append(a - b)
    assert [found.low, found.high] == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    assert found.low < found.difference < found.high


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
    assert paired_difference(first, first, counts) == Difference(0.0, 0.0, 0.0)


def test_one_image_has_no_interval() -> None:
    found = paired_difference([3.0], [2.0], [4])
    assert found.difference == 0.25
    assert math.isnan(found.low)
    assert math.isnan(found.high)


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
