import numpy as np
import pytest

from mobile_sam.metrics import dice, iou


def test_overlap_by_hand() -> None:
    prediction = np.array([[1, 1, 0], [0, 0, 0]], dtype=bool)
    truth = np.array([[0, 1, 1], [0, 0, 0]], dtype=bool)
    assert iou(prediction, truth) == pytest.approx(1 / 3)
    assert dice(prediction, truth) == pytest.approx(2 / 4)


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((2, 2), dtype=bool)
    assert iou(empty, empty) == dice(empty, empty) == 1.0
    assert iou(empty, ~empty) == dice(empty, ~empty) == 0.0
