"""How well masks that were found without prompts cover the segments of an image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # the IoU of COCO's measures


def best_overlaps(
    truths: Sequence[bytes], proposals: Sequence[bytes], size: tuple[int, int]
) -> NDArray[np.float64]:
    """The IoU of each segment with the best proposal: (T,); 0 where there is no proposal.

    truths, proposals: compressed run-length codes, T and P of them. size: (H, W) of the image.
    Their mean is the average best overlap (ABO; Uijlings et al. 2013, "Selective Search for Object
    Recognition"). One proposal may be the best for many segments.
    """
    return pairwise_overlaps(truths, proposals, size).max(axis=0, initial=0.0)


def recall_shares(
    truths: Sequence[bytes],
    proposals: Sequence[bytes],
    scores: ArrayLike,
    size: tuple[int, int],
    most: int = 1000,
) -> NDArray[np.float64]:
    """The share of the IoU thresholds .50:.05:.95 at which each segment is found: (T,).

    truths, proposals, size: as above. scores: (P,); the `most` proposals of highest score count,
    of equal ones the first. The mean over all segments of all images is COCO's AR@`most` without
    classes, because matching is COCO's: each proposal in the order of scores takes the segment of
    highest IoU that none took before. Raises ValueError when there is not one score for each
    proposal.
    """
    if np.shape(scores) != (len(proposals),):
        raise ValueError(
            f"the scores are {np.shape(scores)}; give one for each of {len(proposals)} proposals"
        )
    order = np.argsort(-np.asarray(scores, float), kind="stable")[:most]
    overlaps = pairwise_overlaps(truths, [proposals[i] for i in order], size)
    found = [_matched(overlaps, threshold) for threshold in THRESHOLDS]
    return np.mean(found, axis=0)


def pairwise_overlaps(
    truths: Sequence[bytes], proposals: Sequence[bytes], size: tuple[int, int]
) -> NDArray[np.float64]:
    """IoU (P, T) of each proposal with each segment; arguments as in `best_overlaps`."""
    if not truths or not proposals:
        return np.zeros((len(proposals), len(truths)))
    found, true = (
        [{"size": list(size), "counts": code} for code in codes] for codes in (proposals, truths)
    )
    return coco.iou(found, true, [0] * len(true))


def _matched(overlaps: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """(T,) whether a proposal took the segment; overlaps: (P, T), in order of scores."""
    taken = np.zeros(overlaps.shape[1], dtype=bool)
    for row in overlaps[(overlaps >= threshold).any(axis=1)]:
        free = np.where(taken, -1.0, row)[::-1]  # of equal ones COCO takes the last
        best = len(free) - 1 - int(free.argmax())
        taken[best] |= free.max() >= threshold
    return taken
