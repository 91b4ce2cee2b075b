"""Intervals of the difference between two checkpoints, by resampling images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_RESAMPLES = 2000
_LEVEL = 0.95
_DRAWN_AT_ONCE = 1 << 20  # images; bounds the memory to some times 8 MiB


@dataclass(frozen=True)
class Difference:
    """Mean of the first less mean of the second, and the bounds of its 95 % interval.

    The bounds are NaN where there is one image only, of which nothing follows for others.
    """

    difference: float
    low: float
    high: float


def paired_difference(
    first_sums: ArrayLike, second_sums: ArrayLike, counts: ArrayLike, seed: int = 0
) -> Difference:
    """The difference of a mean over objects between two checkpoints, with its interval.

    first_sums, second_sums: (N,) sums over the objects of each of N images, of the same objects.
    counts: (N,) numbers of objects, 1 or more.

    The percentile interval of 2000 resamples of whole images, because objects of one image are
    alike: a cluster bootstrap (Davison and Hinkley 1997, section 3.8). Both checkpoints are
    resampled together. Two calls give equal intervals. Raises ValueError when shapes differ, a
    value is not finite, or an image has no object.
    """
    first, second, objects = (np.asarray(x, float) for x in (first_sums, second_sums, counts))
    if not first.shape == second.shape == objects.shape or first.ndim != 1 or len(first) == 0:
        raise ValueError(
            f"the sums are {first.shape} and {second.shape}, the counts {objects.shape}; give one "
            "of each for each image, and an image or more"
        )
    apart = first - second
    if not np.isfinite(apart).all() or not objects.min() >= 1:
        raise ValueError("a sum is not finite, or an image has no object; leave such images out")
    difference = _ratio(apart, objects)
    if len(apart) == 1:
        return Difference(float(difference), float("nan"), float("nan"))
    found = stats.bootstrap(
        (apart, objects),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=max(1, _DRAWN_AT_ONCE // len(apart)),
        confidence_level=_LEVEL,
        # Defined for equal checkpoints too, of which BCa says nothing: a width of 0.
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(float(difference), float(found.low), float(found.high))


def _ratio(
    sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    return sums.sum(axis=axis) / counts.sum(axis=axis)
