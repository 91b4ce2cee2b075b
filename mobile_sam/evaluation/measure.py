"""Every segment of an index measured: one row for each segment and prompt."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mobile_sam.data.index import Index, IndexedImage, Segment
from mobile_sam.data.masks import Mask, decode
from mobile_sam.evaluation.encoded import Answer, EncodedImage, frame_of, prompts_at_once
from mobile_sam.evaluation.everything import found_of_everything
from mobile_sam.evaluation.measuring import Measuring
from mobile_sam.evaluation.protocols import answers
from mobile_sam.evaluation.rows import Row, row_of
from mobile_sam.metrics.clicks import number_of_clicks
from mobile_sam.models.mask_decoder import NUM_MASKS
from mobile_sam.models.sam import Sam

log = logging.getLogger(__name__)

_LOG_SECONDS = 5.0


def measured(
    model: Sam,
    index: Index,
    positions: Sequence[int],
    how: Measuring,
    name: str,
    readers: int = 0,
) -> Iterator[Row]:
    """Rows of `tables.SCHEMA` for the images at `positions`, in order of images and prompts.

    model: in eval mode. name: for column `checkpoint`.
    readers: threads that read images ahead.
    """
    records = ((position, index[position]) for position in positions)
    progress = _Progress(name, len(positions))
    for (position, record), frame in _read_ahead(records, model.img_size, readers):
        with torch.no_grad():
            image = EncodedImage(model, frame, record)
            rows = [*_by_prompts(image, record, how)]
            if position < how.automatic_images:
                rows += _without_prompts(image, record, how)
        yield from ({"checkpoint": name, **row} for row in rows)
        progress.step()


def _by_prompts(image: EncodedImage, record: IndexedImage, how: Measuring) -> Iterator[Row]:
    rows: dict[str, list[Row]] = {}
    count = prompts_at_once(record.size, NUM_MASKS)
    for start in range(0, len(record.segments), count):
        segments = record.segments[start : start + count]
        truths = [record.mask(segment) for segment in segments]
        for answer in answers(image, truths, how):
            rows.setdefault(answer.prompt, []).extend(_rows(record, segments, truths, answer))
    return chain.from_iterable(rows.values())


def _without_prompts(image: EncodedImage, record: IndexedImage, how: Measuring) -> Iterator[Row]:
    found = found_of_everything(image, record, how.automatic_points, how.mask_threshold)
    for segment, (best, share) in zip(record.segments, found, strict=True):
        mask, guess = np.zeros(record.size, dtype=bool), float("nan")
        if best is not None:
            mask, guess = decode(best.code, record.size), best.predicted_iou
        row = row_of(record, segment, record.mask(segment), "automatic", mask, guess)
        yield row | {"recall": share}


def _rows(
    record: IndexedImage, segments: Sequence[Segment], truths: Sequence[Mask], answer: Answer
) -> Iterator[Row]:
    masks = answer.masks.cpu().numpy()
    sweep = None if answer.sweep is None else answer.sweep.tolist()
    guesses = answer.predicted_iou.tolist()
    for number, (segment, truth) in enumerate(zip(segments, truths, strict=True)):
        row = row_of(record, segment, truth, answer.prompt, masks[number], guesses[number])
        if sweep is not None:
            row["sweep"] = sweep[number]
        if answer.ious is not None:
            row["noc_80"] = number_of_clicks(answer.ious[number], 0.8)
            row["noc_90"] = number_of_clicks(answer.ious[number], 0.9)
        yield row


def _read_ahead(
    records: Iterable[tuple[int, IndexedImage]], img_size: int, readers: int
) -> Iterator[tuple[tuple[int, IndexedImage], Tensor]]:
    """Records with their images in the model frame, in order; `readers` + 1 of them in memory."""
    if readers == 0:
        for item in records:
            yield item, frame_of(item[1], img_size)
        return
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[tuple[tuple[int, IndexedImage], Future[Tensor]]] = deque()
        for item in records:
            waiting.append((item, pool.submit(frame_of, item[1], img_size)))
            if len(waiting) > readers:
                ready, future = waiting.popleft()
                yield ready, future.result()
        for ready, future in waiting:
            yield ready, future.result()


class _Progress:
    """A line in the log every few seconds: images, images per second, seconds left."""

    def __init__(self, name: str, total: int, now: Callable[[], float] = time.monotonic) -> None:
        self.name, self.total, self.now = name, total, now
        self.began = self.logged = now()
        self.done = 0

    def step(self) -> None:
        """One more image is done."""
        self.done += 1
        if self.now() - self.logged < _LOG_SECONDS:
            return
        self.logged = self.now()
        rate = self.done / (self.logged - self.began)
        left = (self.total - self.done) / rate
        log.info(
            "%s: image %d/%d  %.1f img/s  %.0f s left",
            *(self.name, self.done, self.total, rate, left),
        )
