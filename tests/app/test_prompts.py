"""What a page sends becomes a prompt or an error, and finds the ground truth that it means."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobile_sam.app.prompts import match_segment, measured_iou, parse_prompt
from mobile_sam.data.index.table import IndexedImage, Segment
from mobile_sam.data.masks import bounding_box, encode
from mobile_sam.inference.prompt import Prompt
from mobile_sam.system.errors import UserError

SIZE = (40, 60)


def segment(name: str, x0: int, y0: int, x1: int, y1: int) -> Segment:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return Segment(name, encode(mask), bounding_box(mask), int(mask.sum()))


@pytest.fixture
def record() -> IndexedImage:
    """A large segment, a small one on top of it, and one of which nothing is known."""
    segments = (segment("large", 5, 5, 35, 35), segment("small", 10, 10, 20, 20))
    return IndexedImage("a", Path("a.png"), "", SIZE, segments, (segment("crowd", 30, 0, 60, 40),))


def test_points_and_a_box_become_arguments_of_the_predictor() -> None:
    asked = parse_prompt({"points": [[3, 4.5, 1], [7, 8, 0]], "box": [50, 30, 10, 20]}, SIZE)
    assert asked == Prompt((10.0, 20.0, 50.0, 30.0), ((3.0, 4.5), (7.0, 8.0)), (1, 0))
    assert asked is not None
    arguments = asked.arguments()
    assert arguments["point_coords"].tolist() == [[3.0, 4.5], [7.0, 8.0]]
    assert arguments["point_labels"].tolist() == [1, 0]
    assert arguments["box"].tolist() == [10.0, 20.0, 50.0, 30.0]


def test_nothing_is_no_prompt() -> None:
    assert parse_prompt({"points": [], "box": None}, SIZE) is None
    assert parse_prompt({"points": [[1, 1, 0]]}, SIZE) == Prompt(None, ((1, 1),), (0,))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({}, "points: a list"),
        ({"points": "1"}, "points: a list"),
        ({"points": [[1, 1, 1]] * 101}, "at most 100"),
        ({"points": [[1, 1]]}, "3 numbers"),
        ({"points": [[1, "1", 1]]}, "3 numbers"),
        ({"points": [[1, True, 1]]}, "3 numbers"),
        ({"points": [[1, float("nan"), 1]]}, "3 numbers"),
        ({"points": [[1, 1, 2]]}, "the label 2; it must be 1 or 0"),
        ({"points": [[61, 1, 1]]}, r"\(61, 1\) is not in the image of 60x40 pixels"),
        ({"points": [[1, -1, 1]]}, "is not in the image"),
        ({"points": [], "box": [1, 2, 3]}, "box: .*4 numbers"),
        ({"points": [], "box": [0, 0, 60, 41]}, "box: .* is not in the image"),
    ],
)
def test_anything_else_is_refused(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_prompt(said, SIZE)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        (Prompt(None, ((12, 12),), (1,)), "small"),
        (Prompt(None, ((25, 25),), (1,)), "large"),
        (Prompt(None, ((12, 12), (25, 25)), (0, 1)), "large"),
        (Prompt(None, ((60, 40),), (1,)), None),
        (Prompt(None, ((12, 12),), (0,)), None),
        (Prompt((6, 4, 36, 36)), "large"),
        (Prompt((10, 10, 20, 20)), "small"),
        (Prompt((9, 9, 20, 20), ((25, 25),), (1,)), "small"),
        (Prompt((0, 0, 60, 40)), None),
    ],
)
def test_the_truth_is_that_of_the_box_or_of_the_first_point(
    record: IndexedImage, prompt: Prompt, name: str | None
) -> None:
    found = match_segment(record, prompt)
    assert (found and found.segment_id) == name


def test_an_image_without_segments_has_no_truth(record: IndexedImage) -> None:
    empty = IndexedImage("a", Path("a.png"), "", SIZE, ())
    assert match_segment(empty, Prompt((0, 0, 5, 5), ((1, 1),), (1,))) is None


def test_iou_leaves_out_what_nothing_is_known_of(record: IndexedImage) -> None:
    large = record.segments[0]
    mask = record.mask(large)
    mask[5:35, 35:60] = True  # only where the crowd is
    assert measured_iou(record, large, mask) == 1.0
    mask[:, :5] = True
    assert measured_iou(record, large, mask) == 900 / (900 + 200)
