"""Evaluation of a model on the objects of an index: one row for each object and prompt."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mobile_sam.data.index.table import Index, IndexedImage, Segment
from mobile_sam.data.masks import decode
from mobile_sam.evaluation.encoded import (
    Comparison,
    EncodedImage,
    PromptResult,
    load_frame,
    prompts_per_batch,
)
from mobile_sam.evaluation.options import EvaluationOptions
from mobile_sam.evaluation.protocols import automatic_results, run_protocols
from mobile_sam.evaluation.rows import Row, measure_mask
from mobile_sam.metrics.clicks import number_of_clicks
from mobile_sam.metrics.mask_crop import crop_mask
from mobile_sam.models.mask_decoder import NUM_MASKS
from mobile_sam.models.sam import Sam
from mobile_sam.system.progress import ProgressLog


def measure_images(
    model: Sam,
    index: Index,
    positions: Sequence[int],
    options: EvaluationOptions,
    name: str,
    readers: int = 0,
) -> Iterator[Row]:
    """Yield rows of `tables.SCHEMA` for the images at `positions`, by image and prompt.

    model: in eval mode. name: for column `checkpoint`.
    readers: number of threads that read images ahead.
    """
    records = ((position, index[position]) for position in positions)
    clicked = sample_clicked(index, options)
    progress = ProgressLog(name, len(positions))
    for (position, record), frame in _read_ahead(records, model.img_size, readers):
        with torch.no_grad():
            image = EncodedImage(model, frame, record)
            rows = [*_by_prompts(image, record, options, clicked.get(position))]
            if position < options.automatic_images:
                rows += _without_prompts(image, record, options)
        yield from ({"checkpoint": name, **row} for row in rows)
        progress.step()


def sample_clicked(index: Index, options: EvaluationOptions) -> dict[int, set[int]]:
    """Return the numbers of the objects with clicks, by the position of their image.

    If there is no entry, all objects of the image have clicks. The sample depends on nothing but
    the index and `options.click_objects`.
    """
    if options.click_objects is None:
        return {}
    sample = options.click_sample(index.objects)
    if sample is None:
        return {}
    counts = index.object_counts()
    starts = np.cumsum(counts) - counts
    numbers = np.random.default_rng(0).choice(index.objects, sample, replace=False)
    clicked: dict[int, set[int]] = {position: set() for position in range(len(index))}
    for number, place in zip(numbers, np.searchsorted(starts, numbers, "right") - 1, strict=True):
        clicked[int(place)].add(int(number - starts[place]))
    return clicked


def _by_prompts(
    image: EncodedImage,
    record: IndexedImage,
    options: EvaluationOptions,
    clicked: set[int] | None,
) -> Iterator[Row]:
    """Yield rows of all prompts. clicked: numbers of the objects with clicks; None: all."""
    rows: dict[str, list[Row]] = {}
    count = prompts_per_batch(record.size, NUM_MASKS)
    for start in range(0, len(record.segments), count):
        segments = record.segments[start : start + count]
        truths = [record.cropped_mask(segment) for segment in segments]
        numbers = range(len(segments))
        here = [n for n in numbers if clicked is None or start + n in clicked]
        for result in run_protocols(image, truths, options, here):
            rows.setdefault(result.prompt, []).extend(_rows(record, segments, result))
    return chain.from_iterable(rows.values())


def _without_prompts(
    image: EncodedImage, record: IndexedImage, options: EvaluationOptions
) -> Iterator[Row]:
    results = automatic_results(image, record, options.automatic_points, options.mask_threshold)
    for segment, (best, share) in zip(record.segments, results, strict=True):
        mask, predicted_iou = np.zeros(record.size, dtype=bool), float("nan")
        if best is not None:
            mask, predicted_iou = decode(best.code, record.size), best.predicted_iou
        compared = Comparison(crop_mask(mask), record.cropped_mask(segment))
        row = measure_mask(record, segment, "automatic", compared, predicted_iou)
        yield row | {"recall": share}


def _rows(record: IndexedImage, segments: Sequence[Segment], result: PromptResult) -> Iterator[Row]:
    guesses = result.predicted_iou.tolist()
    objects = range(len(segments)) if result.objects is None else result.objects
    for number, segment in enumerate(segments[n] for n in objects):
        mask, guess = result.masks[number], guesses[number]
        row = measure_mask(record, segment, result.prompt, mask, guess)
        if result.sweep is not None:
            row["sweep"] = result.sweep[number]
        if result.ious is not None:
            row["noc_80"] = number_of_clicks(result.ious[number], 0.8)
            row["noc_90"] = number_of_clicks(result.ious[number], 0.9)
        yield row


def _read_ahead(
    records: Iterable[tuple[int, IndexedImage]], img_size: int, readers: int
) -> Iterator[tuple[tuple[int, IndexedImage], Tensor]]:
    """Yield records with their images in the model frame; holds `readers` + 1 in memory."""
    if readers == 0:
        for item in records:
            yield item, load_frame(item[1], img_size)
        return
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[tuple[tuple[int, IndexedImage], Future[Tensor]]] = deque()
        for item in records:
            waiting.append((item, pool.submit(load_frame, item[1], img_size)))
            if len(waiting) > readers:
                ready, future = waiting.popleft()
                yield ready, future.result()
        for ready, future in waiting:
            yield ready, future.result()
