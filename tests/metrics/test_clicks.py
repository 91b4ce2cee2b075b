import numpy as np
import pytest

from mobile_sam.metrics.clicks import number_of_clicks


def test_the_first_click_that_reaches_the_target_counts() -> None:
    ious = [0.5, 0.8, 0.7, 0.9, 0.95]
    assert [number_of_clicks(ious, t) for t in (0.4, 0.8, 0.85, 0.9, 0.92)] == [1, 2, 4, 4, 5]


def test_a_target_never_reached_costs_all_clicks() -> None:
    assert number_of_clicks([0.5] * 20, 0.9) == 20
    assert number_of_clicks([0.5] * 3, 0.9) == 20  # a session that ended before
    assert number_of_clicks([0.5] * 3, 0.9, max_clicks=10) == 10
    assert number_of_clicks([0.5] * 19 + [0.9], 0.9) == 20


def test_more_clicks_than_most_are_refused() -> None:
    with pytest.raises(ValueError, match="first 20"):
        number_of_clicks([0.5] * 21, 0.9)


def test_a_higher_target_never_takes_less_clicks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        ious = rng.random(20).tolist()
        found = [number_of_clicks(ious, target) for target in np.linspace(0, 1, 30)]
        assert found == sorted(found)
        assert found[0] == 1
