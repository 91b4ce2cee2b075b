"""Calibration of the predicted IoU: whether the model knows how good its masks are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


@dataclass(frozen=True)
class Calibration:
    """How `predicted_iou` and measured IoU go together over N masks.

    edges: (bins + 1,) of equal bins from 0 to 1; a bin holds its lower edge, the last one both.
        What is predicted below 0 or above 1 is in the first or last bin.
    counts: (bins,) masks in each bin. predicted, measured: (bins,) mean IoU of them, predicted and
        measured; NaN in empty bins.
    expected_error: expected calibration error, the mean over masks of |predicted - measured| of
        their bin (Naeini et al. 2015, with IoU for accuracy). absolute_error: the mean of
        |predicted - measured| of each mask.
    pearson, spearman: correlations; NaN of less than two masks, or where either is constant.
    All errors are NaN for no mask.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]
    expected_error: float
    absolute_error: float
    pearson: float
    spearman: float


def calibration(predicted_iou: ArrayLike, iou: ArrayLike, bins: int = 10) -> Calibration:
    """Compare the predicted with the measured IoU of masks.

    predicted_iou, iou: (N,), of the same masks. Raises ValueError when they differ in shape, or
    have values that are not finite.
    """
    guesses, values = np.asarray(predicted_iou, float), np.asarray(iou, float)
    if guesses.shape != values.shape or guesses.ndim != 1:
        raise ValueError(
            f"predicted_iou is {guesses.shape} and iou {values.shape}; give both of N masks, (N,)"
        )
    if not (np.isfinite(guesses).all() and np.isfinite(values).all()):
        raise ValueError("predicted_iou or iou is not finite; leave out what predicts no IoU")
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(guesses, edges[1:-1])
    counts = np.bincount(place, minlength=bins)
    filled = np.where(counts > 0, counts, np.nan)
    predicted, measured = (np.bincount(place, x, bins) / filled for x in (guesses, values))
    size = len(guesses)
    apart = np.abs(predicted - measured)
    return Calibration(
        edges=edges,
        counts=counts,
        predicted=predicted,
        measured=measured,
        expected_error=float(np.nansum(counts * apart) / size) if size else float("nan"),
        absolute_error=float(np.abs(guesses - values).mean()) if size else float("nan"),
        pearson=_correlation(guesses, values),
        spearman=_correlation(stats.rankdata(guesses), stats.rankdata(values)),
    )


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.pearsonr(first, second).statistic)
