"""Differences between checkpoints: 95 % intervals and significance tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05  # significance level; intervals are 95 %
_ALL_SUBSETS_UP_TO = 13  # images
_SUBSETS = 9_999
_VALUES_PER_CHUNK = 1 << 20  # limits memory to a few times 8 MiB


@dataclass(frozen=True)
class Difference:
    """Mean of the first minus mean of the second, its 95 % interval, and a significance test.

    low, high: bounds; NaN with fewer than 6 images, which do not allow a 95 % interval.
    p_value: two-sided. smallest_p: the smallest p-value that this number of images can give.
    """

    difference: float
    low: float
    high: float
    p_value: float
    smallest_p: float


def paired_difference(
    first_sums: ArrayLike,
    second_sums: ArrayLike,
    counts: ArrayLike,
    seed: int = 0,
    subsets: int = _SUBSETS,
) -> Difference:
    """Compare a mean over objects between two checkpoints.

    first_sums, second_sums: (N,) sums over the objects of each of N images, for the same objects.
    counts: (N,) numbers of objects, at least 1. An image stands for an independently drawn unit,
    such as all images of a patient.
    subsets: number of random subsets if there are too many to try all (from 14 images on).

    The test flips signs: if both checkpoints are equally good, the difference of each image could
    equally have had the opposite sign. It assumes no distribution and is exact for any N. The
    interval consists of the differences over subsets of the images: the true value lies below the
    k-th lowest and above the k-th highest with the same small probability (Hartigan 1969, "Using
    subsample values as typical values", JASA 64, theorem 1). Zero is outside the interval exactly
    if the p-value is 0.05 or less. Two calls give equal results. Raises ValueError if shapes
    differ, a value is not finite, or an image has no object.
    """
    first, second, objects = (np.asarray(x, float) for x in (first_sums, second_sums, counts))
    if not first.shape == second.shape == objects.shape or first.ndim != 1 or len(first) == 0:
        raise ValueError(
            f"the sums have shapes {first.shape} and {second.shape}, the counts {objects.shape}; "
            "give one of each per image, for at least one image"
        )
    differences = first - second
    if not np.isfinite(differences).all() or not objects.min() >= 1:
        raise ValueError("a sum is not finite, or an image has no object; leave such images out")
    values = np.sort(_subset_differences(differences, objects, seed, subsets))
    share = 1 / (len(values) + 1)
    one_sided_count = 1 + min((values <= 0).sum(), (values >= 0).sum())
    beyond = int(LEVEL / 2 / share)  # values left out at each end
    low, high = (values[beyond - 1], values[-beyond]) if beyond else (np.nan, np.nan)
    return Difference(
        float(differences.sum() / objects.sum()),
        float(low),
        float(high),
        float(min(1.0, 2 * one_sided_count * share)),
        2 * share,
    )


def _subset_differences(
    differences: NDArray[np.float64], objects: NDArray[np.float64], seed: int, subsets: int
) -> NDArray[np.float64]:
    """Return mean differences over all non-empty subsets of the images, or over random ones."""
    images = len(differences)
    # Rounding of sums makes equal checkpoints differ slightly; treat that as zero.
    rounded = len(differences) * np.finfo(float).eps * np.abs(differences).sum()
    rng = np.random.default_rng(seed)
    values = []
    total = 2**images - 1 if images <= _ALL_SUBSETS_UP_TO else subsets
    step = max(1, _VALUES_PER_CHUNK // images)
    for start in range(0, total, step):
        numbers = np.arange(start, min(start + step, total))
        if images <= _ALL_SUBSETS_UP_TO:
            selected = (numbers[:, None] + 1) >> np.arange(images) & 1
        else:
            selected = rng.integers(0, 2, (len(numbers), images))
        selected = selected[selected.any(axis=1)].astype(float)
        sums = selected @ differences
        values.append(np.where(np.abs(sums) <= rounded, 0, sums) / (selected @ objects))
    return np.concatenate(values)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons; the family-wise error rate at 0.05 is 5 %.

    Holm 1979, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
