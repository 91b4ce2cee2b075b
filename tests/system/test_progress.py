"""A line in the log every few seconds."""

import logging

import pytest

from mobile_sam.system.progress import ProgressLog


def test_a_line_comes_every_five_seconds_with_rate_and_time_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 2.0, 4.0, 5.0, 5.0, 6.0, 11.0, 11.0])
    progress = ProgressLog("segment", 10, now=lambda: next(clock))
    for _ in range(5):
        progress.step()
    assert [record.message for record in caplog.records] == [
        "segment: image 3/10  0.6 images/s  12 s left",
        "segment: image 5/10  0.5 images/s  11 s left",
    ]


def test_what_was_done_before_says_nothing_of_the_rate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 1.0, 6.0, 6.0, 12.0, 12.0])
    progress = ProgressLog("segment", 100, now=lambda: next(clock))
    progress.step(computed=False)
    progress.step(computed=False)
    progress.step()
    assert "image 2/100  0.0 images/s  all done before" in caplog.records[0].message
    assert "image 3/100  0.1 images/s  1164 s left" in caplog.records[1].message
