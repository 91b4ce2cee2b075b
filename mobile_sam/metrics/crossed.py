"""Means over seeds and images, with intervals that generalise to other seeds and other images."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import stdtrit

from mobile_sam.metrics.intervals import LEVEL


@dataclass(frozen=True)
class CrossedMean:
    """Mean over objects, its 95 % interval, and a test of whether it is zero.

    low, high: bounds; NaN with a single image. p_value: two-sided; NaN with a single image.
    of_seeds, of_images: variances of the mean that are due to seeds (0 for a single seed) and to
    images.
    """

    mean: float
    low: float
    high: float
    p_value: float
    of_seeds: float
    of_images: float


def crossed_mean(sums: ArrayLike, counts: ArrayLike) -> CrossedMean:
    """Return the mean over objects of several trainings that were validated on the same images.

    sums: (S, N) sums over the objects of N images for each of S seeds, or of differences between
    two such sums. counts: (N,) numbers of objects.

    Seeds and images are both random, and crossed: the variance is the sum of the variance between
    seeds and of that between images (Owen and Eckles 2012, "Bootstrapping data arrays of arbitrary
    order", Ann. Appl. Stat. 6, show that this sum is not too small). There are few seeds, so the
    interval is Student's, with the mean of both critical values, weighted by the variances
    (Cochran 1964, "Approximate significance levels of the Behrens-Fisher test", Biometrics 20),
    which is on the safe side. With one seed, it generalises to other images only.
    Raises ValueError if shapes differ, a value is not finite, or an image has no object.
    """
    values, objects = np.asarray(sums, float), np.asarray(counts, float)
    if values.ndim != 2 or values.shape[1:] != objects.shape or not values.size:
        raise ValueError(f"the sums have the shape {values.shape}, the counts {objects.shape}")
    if not np.isfinite(values).all() or not objects.min() >= 1:
        raise ValueError("a sum is not finite, or an image has no object; leave such images out")
    seeds, images = values.shape
    total = objects.sum()
    mean = values.sum() / (seeds * total)
    by_seed = values.sum(axis=1) / total
    of_seeds = by_seed.var(ddof=1) / seeds if seeds > 1 else 0.0
    if images == 1:
        return CrossedMean(float(mean), math.nan, math.nan, math.nan, float(of_seeds), math.nan)
    influences = (values.mean(axis=0) - mean * objects) / total
    of_images = images / (images - 1) * (influences**2).sum()
    variance = of_seeds + of_images
    if variance == 0:
        p_value = 1.0 if mean == 0 else 0.0
        return CrossedMean(float(mean), float(mean), float(mean), p_value, 0.0, 0.0)
    error = math.sqrt(variance)
    parts = ((images - 1, of_images / variance), (seeds - 1, of_seeds / variance))

    def critical(level: float) -> float:
        """Return the half width of an interval of this level, in standard errors."""
        return sum(float(stdtrit(n, 1 - level / 2)) * share for n, share in parts if share)

    half = error * critical(LEVEL)
    return CrossedMean(
        float(mean),
        float(mean - half),
        float(mean + half),
        _level_of(abs(mean) / error, critical),
        float(of_seeds),
        float(of_images),
    )


_SMALLEST_P = 1e-12


def _level_of(distance: float, critical: Callable[[float], float]) -> float:
    """Return the level of the interval that ends at a distance from its mean."""
    if distance >= critical(_SMALLEST_P):
        return _SMALLEST_P
    if distance == 0:
        return 1.0
    return float(brentq(lambda level: critical(level) - distance, _SMALLEST_P, 1.0))
