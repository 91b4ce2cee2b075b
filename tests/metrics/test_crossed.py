"""Means over seeds and images: by hand, and how often their intervals hold."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from mobile_sam.metrics.crossed import crossed_mean


def test_one_seed_is_students_interval_over_images() -> None:
    values = np.array([[0.2, 0.5, 0.9, 0.4]])
    found, theirs = crossed_mean(values, np.ones(4)), ttest_1samp(values[0], 0)
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert found.of_seeds == 0


def test_variances_of_seeds_and_images_are_added() -> None:
    """Means 0.2 and 0.4 by seed; 0.1, 0.3 and 0.5 by image; two objects an image."""
    by_seed, by_image = np.array([-0.1, 0.1]), np.array([-0.2, 0.0, 0.2])
    sums = 2 * (0.3 + by_seed[:, None] + by_image)
    found = crossed_mean(sums, [2, 2, 2])
    assert found.mean == pytest.approx(0.3)
    assert found.of_seeds == pytest.approx(0.02 / 2)
    assert found.of_images == pytest.approx(0.04 / 3)
    variance = 0.01 + 0.04 / 3
    critical = (0.01 * 12.7062 + 0.04 / 3 * 4.30265) / variance  # of 1 and of 2 degrees of freedom
    assert found.high - found.mean == pytest.approx(critical * math.sqrt(variance), rel=1e-4)


def test_zero_lies_in_the_interval_exactly_if_p_is_above_5_percent() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        found = crossed_mean(rng.normal(0.4, 1, (3, 8)), np.ones(8))
        assert (found.low <= 0 <= found.high) == (found.p_value > 0.05)


def test_an_image_counts_by_its_objects() -> None:
    assert crossed_mean([[1.0, 0.0]], [1, 3]).mean == pytest.approx(0.25)


def test_one_image_has_no_interval_and_equal_values_have_no_width() -> None:
    assert math.isnan(crossed_mean([[0.5], [0.6]], [1]).low)
    same = crossed_mean(np.zeros((2, 3)), np.ones(3))
    assert (same.low, same.high, same.p_value) == (0, 0, 1)


@pytest.mark.parametrize(
    ("sums", "counts"),
    [([1.0, 2.0], [1, 1]), ([[1.0, 2.0]], [1]), ([[1.0, math.nan]], [1, 1]), ([[1.0]], [0])],
)
def test_other_shapes_and_values_are_refused(sums: list[float], counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"shape|finite"):
        crossed_mean(sums, counts)


@pytest.mark.parametrize(("seeds", "images"), [(1, 20), (3, 10), (3, 50), (5, 20)])
@pytest.mark.parametrize("of_seeds", [0.0, 1.0, 4.0])
def test_95_percent_intervals_hold_the_true_mean(seeds: int, images: int, of_seeds: float) -> None:
    """Simulated: normal effects of seeds and images, and of both together.

    of_seeds: variance of the mean that is due to seeds, relative to that due to images. With one
    seed, intervals are about images only.
    """
    rng = np.random.default_rng(0)
    deviation = 0 if seeds == 1 else math.sqrt(of_seeds * seeds / images)
    held = 0
    for _ in range(2000):
        values = rng.normal(0, deviation, (seeds, 1)) + rng.normal(0, 1, (1, images))
        values += rng.normal(0, 0.5, (seeds, images))
        found = crossed_mean(values, np.ones(images))
        held += found.low <= 0 <= found.high
    assert 0.94 <= held / 2000 <= 0.99
