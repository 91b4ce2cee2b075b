"""Threads that work while the encoder does: one reads ahead, one writes; both buffer few items."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1


def read_ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """Yield the items in order, computed by a thread that is at most `depth` items ahead.

    An exception of the thread is raised in place of its item.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        end: BaseException = StopIteration()
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:  # noqa: BLE001 - the reader raises it again
            end = error
        put((None, end))

    threading.Thread(target=work, daemon=True, name="read-ahead").start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()


class BackgroundWriter(Generic[T]):
    """Writer of items in a thread, one after the other; its errors are raised in the caller.

    `reserve` waits until there are fewer than `most` items, including the one being filled.
    Leaving the `with` block waits for all items; after an exception, it drops the queued ones.
    """

    def __init__(self, write: Callable[[T], None], most: int) -> None:
        self._write = write
        self._room = threading.Semaphore(most)
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="writer")

    def __enter__(self) -> "BackgroundWriter[T]":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._error = self._error or error
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def reserve(self) -> None:
        """Wait for room for one more item."""
        self._room.acquire()
        self._raise()

    def give(self, item: T) -> None:
        """Queue an item after `reserve`."""
        self._raise()
        self._queue.put(item)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write(item)
                except BaseException as error:  # noqa: BLE001 - the caller raises it again
                    self._error = error
            self._room.release()
