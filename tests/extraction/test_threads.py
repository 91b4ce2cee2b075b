"""Threads beside the encoder: ahead and behind, but not far, and never silent."""

import threading
import time
from collections.abc import Iterator

import pytest

from mobile_sam.extraction.threads import BackgroundWriter, read_ahead


def test_reading_is_ahead_by_so_many_items_and_keeps_their_order() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            yield i

    ahead = read_ahead(items(), depth=2)
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(made) == 4  # one handed out, two ready, one that waits for room
    assert list(ahead) == list(range(1, 20))


def test_an_error_of_reading_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = read_ahead(items(), depth=2)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_reading_ends_when_nobody_listens() -> None:
    before = threading.active_count()
    ahead = read_ahead(iter(range(10**9)), depth=2)
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_more_items_are_held_than_agreed() -> None:
    written: list[int] = []

    def write(item: int) -> None:
        time.sleep(0.02)
        written.append(item)

    with BackgroundWriter(write, most=2) as writer:
        for i in range(8):
            writer.reserve()
            assert i - len(written) < 2  # this one, and one that is being written
            writer.give(i)
    assert written == list(range(8))


def test_writing_goes_on_beside_the_caller() -> None:
    threads: list[threading.Thread] = []

    def write(item: int) -> None:
        threads.append(threading.current_thread())

    with BackgroundWriter(write, most=2) as writer:
        writer.reserve()
        writer.give(1)
    assert threads != [threading.current_thread()]


@pytest.mark.parametrize("last", [False, True])
def test_an_error_of_writing_reaches_the_caller(last: bool) -> None:
    def write(item: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), BackgroundWriter(write, most=2) as writer:
        for i in range(1 if last else 5):
            writer.reserve()
            writer.give(i)


def test_after_an_error_of_the_caller_nothing_more_is_written() -> None:
    written: list[int] = []
    started = threading.Event()

    def write(item: int) -> None:
        started.set()
        time.sleep(0.1)
        written.append(item)

    with pytest.raises(KeyboardInterrupt), BackgroundWriter(write, most=3) as writer:
        for i in range(3):
            writer.reserve()
            writer.give(i)
        started.wait()
        raise KeyboardInterrupt
    assert written == [0]
