"""Segments found without prompts: how well a grid of points covers what is annotated.

As proposals are measured (Kirillov et al., arXiv:2304.02643, section 7.3): no mask is thrown away
for its predicted IoU or stability, boxes are duplicates from an IoU of 0.9, and masks are ranked by
the mean of the two scores.
"""

from collections.abc import Iterator

import numpy as np

from mobile_sam.data.images import read_image
from mobile_sam.data.index import IndexedImage
from mobile_sam.evaluation.encoded import EncodedImage
from mobile_sam.inference.automatic_masks import automatic_masks
from mobile_sam.inference.proposals import AutomaticMask, AutomaticOptions
from mobile_sam.metrics.proposals import pairwise_overlaps, recall_shares

MOST = 1000  # proposals of an image that count


def found_of_everything(
    image: EncodedImage, record: IndexedImage, points: int, threshold: float
) -> Iterator[tuple[AutomaticMask | None, float]]:
    """For each segment of the image the best mask found, and its share of `recall_shares`.

    points: along a side of the grid. threshold: of mask logits. None where nothing was found.
    """
    options = AutomaticOptions(
        points_per_side=points,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=0.9,
        mask_threshold=threshold,
    )
    pixels = read_image(record.path)
    masks = automatic_masks(image.model, pixels, options, image.embedding)
    scores = np.array([(mask.predicted_iou + mask.stability_score) / 2 for mask in masks])
    masks = [masks[place] for place in np.argsort(-scores, kind="stable")[:MOST]]
    codes = [mask.code for mask in masks]
    truths = [segment.rle for segment in record.segments]
    shares = recall_shares(truths, codes, -np.arange(len(codes)), record.size, MOST)
    overlaps = pairwise_overlaps(truths, codes, record.size)  # (P, T)
    for number, share in enumerate(shares.tolist()):
        yield (masks[int(overlaps[:, number].argmax())] if masks else None), share
