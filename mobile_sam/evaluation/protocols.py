"""Evaluation protocols of the literature: prompts, simulated clicks and automatic masks.

Clicks are placed as in RITM (Sofiiuk et al., arXiv:2102.06583, and the authors' code): each click
goes to the pixel that lies deepest in an error. As SAM is used (Kirillov et al., arXiv:2304.02643),
the first click takes the mask with the highest predicted IoU of three, and each later one passes
the previous prediction as a mask prompt.

Automatic masks are measured like proposals in SAM (section 7.3): no mask is discarded because of
its predicted IoU or stability, boxes with an IoU above 0.9 are duplicates, and masks are ranked by
the mean of the two scores.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mobile_sam.config.sections import Protocol
from mobile_sam.data.index.table import IndexedImage, read_indexed_image
from mobile_sam.data.masks import encode, interior_point, subtract
from mobile_sam.data.sampling.click_simulation import Click, clicks_prompt, next_click
from mobile_sam.data.sampling.prompts import VALIDATION_PROMPTS, Prompt, point_prompt
from mobile_sam.evaluation.encoded import Comparison, EncodedImage, PromptResult, select_masks
from mobile_sam.evaluation.options import EvaluationOptions
from mobile_sam.inference.automatic_masks import automatic_masks
from mobile_sam.inference.proposals import AutomaticMask, AutomaticOptions
from mobile_sam.metrics.mask_crop import MaskCrop
from mobile_sam.metrics.proposals import pairwise_overlaps, recall_shares
from mobile_sam.models.mask_decoder import ALL, MULTI, Decoded


def run_protocols(
    image: EncodedImage,
    truths: list[MaskCrop],
    options: EvaluationOptions,
    clicked: list[int],
) -> Iterator[PromptResult]:
    """Yield the predictions for P objects, one result for each prompt.

    truths: masks, not empty. The four masks of a prompt come from one pass of the decoder.
    clicked: the numbers of the objects that have clicks.
    """
    clicking = bool(clicked) and bool({"clicks", "noc"} & set(options.protocols))
    for kind, prompt_of in _PROMPTS.items():
        requested = kind in options.protocols
        if not requested and not (kind == "point" and clicking):
            continue
        decoded = image.decode([prompt_of(mask) for mask in truths], outputs=ALL)
        if requested:
            yield from _by_prompt(image, kind, decoded, truths, options)
        if kind == "point" and clicking:
            best = 1 + decoded.predicted_iou[:, 1:].argmax(1)
            low_res_logits = select_masks(decoded.low_res_logits, best)[:, None]
            predicted_iou = select_masks(decoded.predicted_iou, best)
            results = click_results(
                image,
                [truths[number] for number in clicked],
                (low_res_logits[clicked], predicted_iou[clicked]),
                options.mask_threshold,
                options.protocols,
            )
            yield from (result._replace(objects=clicked) for result in results)


def _by_prompt(
    image: EncodedImage,
    kind: str,
    decoded: Decoded,
    truths: list[MaskCrop],
    options: EvaluationOptions,
) -> Iterator[PromptResult]:
    """Yield the results of one prompt."""
    low_res_logits, predicted_iou = decoded.low_res_logits, decoded.predicted_iou
    threshold, thresholds = options.mask_threshold, options.thresholds
    if kind not in VALIDATION_PROMPTS:
        masks = _compare(image.predict(low_res_logits[:, 0], threshold), truths)
        yield PromptResult(kind, masks, predicted_iou[:, 0])
        return
    swept = list(image.upscale(low_res_logits[:, 0], min(threshold, *thresholds)))
    masks = _compare([logits.above(threshold) for logits in swept], truths)
    sweep = [logits.sweep(truth, thresholds) for logits, truth in zip(swept, truths, strict=True)]
    yield PromptResult(kind, masks, predicted_iou[:, 0], sweep)
    if "best_of_3" in options.protocols:
        of_three = [_compare(image.predict(low_res_logits[:, k], threshold), truths) for k in MULTI]
        ious = torch.tensor([[mask.iou for mask in masks] for masks in of_three])
        for name, best in (("best", ious.T.argmax(1)), ("chosen", predicted_iou[:, 1:].argmax(1))):
            masks = [of_three[k][number] for number, k in enumerate(best.tolist())]
            yield PromptResult(f"{kind}_{name}_of_3", masks, select_masks(predicted_iou, 1 + best))


def _compare(predictions: Iterable[MaskCrop], truths: Iterable[MaskCrop]) -> list[Comparison]:
    return [Comparison(*pair) for pair in zip(predictions, truths, strict=True)]


def box_center(mask: MaskCrop) -> Prompt:
    """Return the centre of the bounding box as a point prompt; it may lie outside the mask."""
    x0, y0, x1, y1 = mask.box
    return point_prompt((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2)


_PROMPTS: dict[str, Callable[[MaskCrop], Prompt]] = {**VALIDATION_PROMPTS, "center": box_center}


MAX_CLICKS = 20
TARGET_IOU = 0.9  # a session ends at this IoU
REPORTED_CLICKS = (3, 5)  # each has its own rows in the table


def click_results(
    image: EncodedImage,
    truths: Sequence[MaskCrop],
    first: tuple[Tensor, Tensor],
    threshold: float,
    protocols: Sequence[Protocol],
) -> Iterator[PromptResult]:
    """Simulate corrective clicks on P objects; yield the predictions after some of them.

    first: low_res_logits (P, 1, S/4, S/4) and predicted_iou (P,) of a click on the deepest pixel of
    each. A session ends at the target IoU: `noc` is the same whether or not `clicks` yields
    predictions after more clicks.
    """
    counted, shown = "noc" in protocols, REPORTED_CLICKS if "clicks" in protocols else ()
    session = _ClickSession(image, truths, first, threshold)
    for count in range(1, (MAX_CLICKS if counted else max(REPORTED_CLICKS)) + 1):
        if count > 1:
            # Always the same batches: another batch size may round differently.
            session.click(everywhere=count <= max(REPORTED_CLICKS))
        if count in shown:
            yield PromptResult(f"clicks_{count}", *session.state())
        if count >= max(shown, default=0) and session.reached():
            break
    if counted:
        yield session.counted()


class _ClickSession:
    """Clicks on each of P objects, the predicted masks, and the IoU after each click."""

    def __init__(
        self,
        image: EncodedImage,
        truths: Sequence[MaskCrop],
        first: tuple[Tensor, Tensor],
        threshold: float,
    ) -> None:
        self.image, self.truths, self.threshold = image, truths, threshold
        self.low_res_logits, self.predicted_iou = (tensor.clone() for tensor in first)
        self.masks = self._masks(range(len(truths)))
        self.clicks: list[list[Click]] = [[(*interior_point(mask), True)] for mask in truths]
        self.ious: list[list[float]] = [[] for _ in truths]
        # Of each object that has reached the target: mask, predicted_iou, clicks.
        self.finished: dict[int, tuple[Comparison, Tensor, int]] = {}
        self._measure(range(len(truths)))

    def state(self) -> tuple[list[Comparison], Tensor]:
        """Return the P current masks and predicted_iou (P,)."""
        return self.masks.copy(), self.predicted_iou.clone()

    def counted(self) -> PromptResult:
        """Return the result of each session: at the target IoU, or after the last click."""
        masks, predicted_iou = self.state()
        ious = [tuple(values) for values in self.ious]
        for number, (mask, score, clicks) in self.finished.items():
            masks[number], predicted_iou[number] = mask, score
            ious[number] = ious[number][:clicks]
        return PromptResult("noc", masks, predicted_iou, ious=tuple(ious))

    def reached(self) -> bool:
        """Return whether every object has reached the target IoU."""
        return not self._unfinished()

    def click(self, everywhere: bool) -> None:
        """Add a click to every object, or only to those that have not reached the target IoU."""
        active = list(range(len(self.truths))) if everywhere else self._unfinished()
        for number in active:
            self.clicks[number].append(
                next_click(self.masks[number].prediction, self.truths[number], self.clicks[number])
            )
        decoded = self.image.decode(
            [clicks_prompt(self.clicks[number]) for number in active], self.low_res_logits[active]
        )
        self.low_res_logits[active] = decoded.low_res_logits
        self.predicted_iou[active] = decoded.predicted_iou[:, 0]
        for number, mask in zip(active, self._masks(active), strict=True):
            self.masks[number] = mask
        self._measure(active)

    def _measure(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.ious[number].append(self.masks[number].iou)
            if number not in self.finished and self.ious[number][-1] >= TARGET_IOU:
                score, clicks = self.predicted_iou[number].clone(), len(self.ious[number])
                self.finished[number] = (self.masks[number], score, clicks)

    def _masks(self, numbers: Sequence[int]) -> list[Comparison]:
        """Return the masks of some objects."""
        low_res_logits = self.low_res_logits[list(numbers), 0]
        predictions = self.image.predict(low_res_logits, self.threshold)
        return _compare(predictions, [self.truths[number] for number in numbers])

    def _unfinished(self) -> list[int]:
        return [number for number in range(len(self.truths)) if number not in self.finished]


MAX_PROPOSALS = 1000  # per image


def automatic_results(
    image: EncodedImage, record: IndexedImage, points: int, threshold: float
) -> Iterator[tuple[AutomaticMask | None, float]]:
    """Yield for each object the best automatic mask and the object's share of `recall_shares`.

    points: grid points along one side. threshold: of mask logits. The mask is None if none was
    found.
    """
    options = AutomaticOptions(
        points_per_side=points,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=0.9,
        mask_threshold=threshold,
    )
    pixels = read_indexed_image(record)
    masks = automatic_masks(image.model, pixels, options, image.embedding)
    scores = np.array([(mask.predicted_iou + mask.stability_score) / 2 for mask in masks])
    masks = [masks[index] for index in np.argsort(-scores, kind="stable")[:MAX_PROPOSALS]]
    # As with prompts, masks do not cover ignored pixels.
    unknown = [encode(record.unknown())] if record.ignored else []
    codes = [subtract(mask.code, unknown, record.size) for mask in masks]
    masks = [replace(mask, code=code) for mask, code in zip(masks, codes, strict=True)]
    truths = [segment.rle for segment in record.segments]
    shares = recall_shares(truths, codes, -np.arange(len(codes)), record.size, MAX_PROPOSALS)
    iou_matrix = pairwise_overlaps(truths, codes, record.size)  # (P, T)
    for number, share in enumerate(shares.tolist()):
        yield (masks[int(iou_matrix[:, number].argmax())] if masks else None), share
