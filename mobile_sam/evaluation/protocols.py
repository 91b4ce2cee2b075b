"""The prompts that measure a model, and its answers: the protocols of the literature."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from mobile_sam.data.masks import Mask, bounding_box
from mobile_sam.data.prompts import VALIDATION_PROMPTS, Prompt, point_prompt
from mobile_sam.evaluation.clicking import answers_by_clicks
from mobile_sam.evaluation.encoded import Answer, EncodedImage, chosen, overlaps
from mobile_sam.evaluation.measuring import Measuring
from mobile_sam.models.mask_decoder import ALL, Decoded


def answers(image: EncodedImage, truths: list[Mask], how: Measuring) -> Iterator[Answer]:
    """What the model says of each of P segments, prompt by prompt.

    truths: masks (H, W), not empty. The four masks of a prompt come from one pass of the decoder.
    """
    truth = torch.from_numpy(np.stack(truths)).to(image.device)
    clicking = bool({"clicks", "noc"} & set(how.protocols))
    for kind, prompt_of in _PROMPTS.items():
        asked = kind in how.protocols
        if not asked and not (kind == "point" and clicking):
            continue
        decoded = image.decode([prompt_of(mask) for mask in truths], outputs=ALL)
        if asked:
            yield from _by_prompt(kind, image.upscale(decoded.low_res_logits), decoded, truth, how)
        if kind == "point" and clicking:
            best = 1 + decoded.predicted_iou[:, 1:].argmax(1)
            first = (
                chosen(decoded.low_res_logits, best)[:, None],
                chosen(decoded.predicted_iou, best),
            )
            yield from answers_by_clicks(image, truths, first, how.mask_threshold, how.protocols)


def _by_prompt(
    kind: str, logits: Tensor, decoded: Decoded, truth: Tensor, how: Measuring
) -> Iterator[Answer]:
    """logits: (P, 4, H, W), image frame; truth: (P, H, W) bool."""
    masks = logits > how.mask_threshold
    guesses = decoded.predicted_iou
    sweep = None
    if kind in VALIDATION_PROMPTS:
        tried = [overlaps(logits[:, 0] > threshold, truth) for threshold in how.thresholds]
        sweep = torch.stack(tried, dim=1)
    yield Answer(kind, masks[:, 0], guesses[:, 0], sweep)
    if "best_of_3" in how.protocols and kind in VALIDATION_PROMPTS:
        best = 1 + overlaps(masks[:, 1:], truth[:, None]).argmax(1)
        yield Answer(f"{kind}_best_of_3", chosen(masks, best), chosen(guesses, best))
        likely = 1 + guesses[:, 1:].argmax(1)
        yield Answer(f"{kind}_chosen_of_3", chosen(masks, likely), chosen(guesses, likely))


def box_center(mask: Mask) -> Prompt:
    """The centre of the mask's bounding box, which need not lie on the mask."""
    x0, y0, x1, y1 = bounding_box(mask)
    return point_prompt((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2)


_PROMPTS: dict[str, Callable[[Mask], Prompt]] = {**VALIDATION_PROMPTS, "center": box_center}
