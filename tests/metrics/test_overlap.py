import numpy as np
import pytest
from pycocotools import mask as coco

from mobile_sam.data.masks import decode, encode
from mobile_sam.metrics import dice, iou
from mobile_sam.metrics.mask_crop import MaskCrop, crop_mask
from tests.helpers.mask_pairs import SIZES, pairs


def test_overlap_by_hand() -> None:
    prediction = np.array([[1, 1, 0], [0, 0, 0]], dtype=bool)
    truth = np.array([[0, 1, 1], [0, 0, 0]], dtype=bool)
    assert iou(prediction, truth) == pytest.approx(1 / 3)
    assert dice(prediction, truth) == pytest.approx(2 / 4)


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((2, 2), dtype=bool)
    assert iou(empty, empty) == dice(empty, empty) == 1.0
    assert iou(empty, ~empty) == dice(empty, ~empty) == 0.0


@pytest.mark.parametrize("size", SIZES)
def test_iou_is_that_of_pycocotools(size: tuple[int, int]) -> None:
    compared = 0
    for name, prediction, truth in pairs(size):
        codes = [{"size": list(size), "counts": encode(mask)} for mask in (prediction, truth)]
        theirs = coco.iou(codes[:1], codes[1:], [0])[0, 0]
        if not prediction.any() and not truth.any():
            continue  # of which pycocotools says 0
        assert iou(prediction, truth) == pytest.approx(theirs, abs=1e-12), name
        assert dice(prediction, truth) == pytest.approx(2 * theirs / (1 + theirs)), name
        compared += 1
    assert compared > 80


def test_the_layout_in_memory_does_not_matter() -> None:
    for name, prediction, truth in pairs((60, 300)):
        by_columns = decode(encode(truth), truth.shape)
        assert by_columns.flags.f_contiguous
        assert not by_columns.flags.c_contiguous
        wider = np.zeros((70, 310), dtype=bool)
        wider[5:65, 5:305] = prediction
        expected = iou(prediction, truth)
        assert iou(prediction, by_columns) == iou(by_columns, prediction) == expected, name
        assert iou(wider[5:65, 5:305], truth) == expected, name


def test_a_window_of_any_size_does_not_matter() -> None:
    for name, prediction, truth in pairs((60, 300)):
        crop = MaskCrop(prediction, 0, 0, (60, 300))
        assert iou(crop, truth) == iou(prediction, truth), name
        np.testing.assert_array_equal(crop_mask(prediction).within((0, 0, 300, 60)), prediction)
        inside = crop_mask(prediction).within((7, 5, 90, 31))
        np.testing.assert_array_equal(inside, prediction[5:31, 7:90])


def test_masks_of_two_images_are_refused() -> None:
    mask = np.ones((4, 6), dtype=bool)
    for other in (mask.T, mask[:1], mask[None]):
        with pytest.raises(ValueError, match=r"\(4, 6\)"):
            iou(mask, other)
