import math

import numpy as np
import pytest
from scipy import stats

from mobile_sam.metrics.calibration import calibration


def test_calibration_by_hand() -> None:
    found = calibration([0.05, 0.15, 0.15, 0.95], [0.0, 0.2, 0.4, 0.95])
    assert found.counts.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert found.predicted[[0, 1, 9]] == pytest.approx([0.05, 0.15, 0.95])
    assert found.measured[[0, 1, 9]] == pytest.approx([0.0, 0.3, 0.95])
    assert np.isnan(found.predicted[2:9]).all()
    assert np.isnan(found.measured[2:9]).all()
    assert found.expected_error == pytest.approx((0.05 + 2 * 0.15) / 4)
    assert found.absolute_error == pytest.approx((0.05 + 0.05 + 0.25) / 4)


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_calibration_is_that_of_a_loop(bins: int) -> None:
    rng = np.random.default_rng(bins)
    predicted = rng.normal(0.6, 0.4, 500)  # beyond 0 and 1 too
    iou = np.clip(predicted + rng.normal(0, 0.2, 500), 0, 1).round(1)  # with ties
    found = calibration(predicted, iou, bins)
    error, total = 0.0, 0
    for k in range(bins):
        low = -math.inf if k == 0 else k / bins
        high = math.inf if k == bins - 1 else (k + 1) / bins
        inside = [(p, m) for p, m in zip(predicted, iou, strict=True) if low <= p < high]
        assert found.counts[k] == len(inside) > 0
        means = np.mean(inside, axis=0)
        assert (found.predicted[k], found.measured[k]) == pytest.approx(tuple(means))
        error += len(inside) / 500 * abs(means[0] - means[1])
        total += len(inside)
    assert total == 500
    assert found.expected_error == pytest.approx(error)
    assert found.pearson == pytest.approx(np.corrcoef(predicted, iou)[0, 1])
    assert found.spearman == pytest.approx(stats.spearmanr(predicted, iou).statistic)


def test_edges_belong_to_the_bin_above_and_the_last_bin_holds_1() -> None:
    found = calibration([0.0, 0.5, 1.0, 1.2, -0.3], [0.0] * 5, bins=2)
    assert found.edges.tolist() == [0, 0.5, 1]
    assert found.counts.tolist() == [2, 3]


def test_a_perfect_guess_has_no_error() -> None:
    iou = np.linspace(0, 1, 30)
    found = calibration(iou, iou)
    assert found.expected_error == found.absolute_error == 0.0
    assert found.pearson == pytest.approx(1.0)
    assert found.spearman == pytest.approx(1.0)


def test_what_is_not_defined_is_nan() -> None:
    constant = calibration([0.7, 0.7, 0.7], [0.1, 0.2, 0.3])
    assert math.isnan(constant.pearson)
    assert math.isnan(constant.spearman)
    assert constant.absolute_error == pytest.approx(0.5)
    one = calibration([0.7], [0.5])
    assert math.isnan(one.pearson)
    assert one.expected_error == pytest.approx(0.2)
    none = calibration([], [])
    assert math.isnan(none.expected_error)
    assert math.isnan(none.absolute_error)
    assert none.counts.sum() == 0


@pytest.mark.parametrize("bad", [[0.5, math.nan], [0.5, math.inf], [0.5]])
def test_masks_without_a_guess_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="predicted_iou"):
        calibration(bad, [0.5, 0.6])
