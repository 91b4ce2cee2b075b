"""Coverage of the objects of an image by masks found without prompts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU thresholds of COCO's metrics


def best_overlaps(
    truths: Sequence[bytes], proposals: Sequence[bytes], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the IoU of each object with its best proposal, (T,); 0 without proposals.

    truths, proposals: compressed run-length codes, T and P of them. size: (H, W) of the image.
    Their mean is the average best overlap (ABO; Uijlings et al. 2013, "Selective Search for Object
    Recognition"). One proposal may be the best for several objects.
    """
    return pairwise_overlaps(truths, proposals, size).max(axis=0, initial=0.0)


def recall_shares(
    truths: Sequence[bytes],
    proposals: Sequence[bytes],
    scores: ArrayLike,
    size: tuple[int, int],
    max_proposals: int = 1000,
) -> NDArray[np.float64]:
    """Return the share of the IoU thresholds .50:.05:.95 at which each object is found, (T,).

    truths, proposals, size: as in `best_overlaps`. scores: (P,); only the `max_proposals` proposals
    with the highest scores count, ties in order. The mean over all objects of all images is COCO's
    AR@`max_proposals` without classes, because matching is COCO's: in order of scores, each
    proposal takes the unmatched object with the highest IoU. Raises ValueError if the number of
    scores differs from that of proposals.
    """
    if np.shape(scores) != (len(proposals),):
        raise ValueError(
            f"the scores have shape {np.shape(scores)}; there are {len(proposals)} proposals"
        )
    order = np.argsort(-np.asarray(scores, float), kind="stable")[:max_proposals]
    overlaps = pairwise_overlaps(truths, [proposals[i] for i in order], size)
    matched = [_matched(overlaps, threshold) for threshold in THRESHOLDS]
    return np.mean(matched, axis=0)


def pairwise_overlaps(
    truths: Sequence[bytes], proposals: Sequence[bytes], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return IoU (P, T) of each proposal with each object; arguments as in `best_overlaps`."""
    if not truths or not proposals:
        return np.zeros((len(proposals), len(truths)))
    matched, true = (
        [{"size": list(size), "counts": code} for code in codes] for codes in (proposals, truths)
    )
    return coco.iou(matched, true, [0] * len(true))


def _matched(overlaps: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Return which objects are matched, (T,); overlaps: (P, T), in order of scores."""
    taken = np.zeros(overlaps.shape[1], dtype=bool)
    for row in overlaps[(overlaps >= threshold).any(axis=1)]:
        free = np.where(taken, -1.0, row)[::-1]  # COCO takes the last of equal ones
        best = len(free) - 1 - int(free.argmax())
        taken[best] |= free.max() >= threshold
    return taken
