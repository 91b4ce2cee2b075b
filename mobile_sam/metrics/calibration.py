"""Calibration of the predicted IoU: how well the model knows the accuracy of its masks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


@dataclass(frozen=True)
class Calibration:
    """Agreement of `predicted_iou` and measured IoU over N masks.

    edges: (bins + 1,) of equal bins from 0 to 1; a bin includes its lower edge, the last one both.
        Predictions below 0 or above 1 belong to the first or last bin.
    counts: (bins,) masks per bin. predicted, measured: (bins,) their mean IoU, predicted and
        measured; NaN in empty bins.
    expected_error: expected calibration error, the mean over masks of |predicted - measured| of
        their bin (Naeini et al. 2015, with IoU for accuracy). absolute_error: the mean of
        |predicted - measured| over masks.
    pearson, spearman: correlations; NaN for fewer than two masks, or if either value is constant.
    All errors are NaN without masks.
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

    predicted_iou, iou: (N,), of the same masks. Raises ValueError if their shapes differ or a value
    is not finite.
    """
    predictions, values = np.asarray(predicted_iou, float), np.asarray(iou, float)
    if predictions.shape != values.shape or predictions.ndim != 1:
        raise ValueError(
            f"predicted_iou has shape {predictions.shape} and iou {values.shape}; both must be (N,)"
        )
    if not (np.isfinite(predictions).all() and np.isfinite(values).all()):
        raise ValueError(
            "predicted_iou or iou is not finite; leave out masks without a predicted IoU"
        )
    edges = np.linspace(0, 1, bins + 1)
    bins_of_masks = np.digitize(predictions, edges[1:-1])
    counts = np.bincount(bins_of_masks, minlength=bins)
    filled = np.where(counts > 0, counts, np.nan)
    predicted, measured = (
        np.bincount(bins_of_masks, x, bins) / filled for x in (predictions, values)
    )
    size = len(predictions)
    gaps = np.abs(predicted - measured)
    return Calibration(
        edges=edges,
        counts=counts,
        predicted=predicted,
        measured=measured,
        expected_error=float(np.nansum(counts * gaps) / size) if size else float("nan"),
        absolute_error=float(np.abs(predictions - values).mean()) if size else float("nan"),
        pearson=_correlation(predictions, values),
        spearman=_correlation(stats.rankdata(predictions), stats.rankdata(values)),
    )


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.pearsonr(first, second).statistic)
