"""An image that a model has encoded: prompts in the image frame in, masks out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mobile_sam.data.index import IndexedImage, read_unchanged
from mobile_sam.data.masks import Size
from mobile_sam.data.prompts import Prompt
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.frames import points_to_model_frame, upscale_logits
from mobile_sam.models.mask_decoder import SINGLE, Decoded
from mobile_sam.models.sam import Sam

_MOST_PROMPTS = 64
_MOST_LOGITS = 2**26  # 256 MiB in 32 bits


class Answer(NamedTuple):
    """What a model says of P segments that are prompted in one way.

    prompt: the name in tables. masks: (P, H, W) bool, image frame. predicted_iou: (P,).
    sweep: (P, T), IoU at each of T thresholds, where it is wanted.
    ious: of each segment, IoU after each click of a session, where clicks are counted.
    """

    prompt: str
    masks: Tensor
    predicted_iou: Tensor
    sweep: Tensor | None = None
    ious: tuple[tuple[float, ...], ...] | None = None


class EncodedImage:
    """One image, encoded once for all prompts.

    size: (H, W) of the image in pixels. ignored: (H, W) bool or None, pixels that no mask may
    claim, for nothing is known of them.
    """

    def __init__(self, model: Sam, frame: Tensor, record: IndexedImage) -> None:
        """frame: (3, S, S), as `frame_of` reads it."""
        self.model = model
        self.device = next(model.parameters()).device
        self.size = record.size
        self.embedding = model.image_encoder(frame[None].to(self.device))
        unknown = record.unknown() if record.ignored else None
        self.ignored = None if unknown is None else torch.from_numpy(unknown).to(self.device)

    def decode(
        self, prompts: Sequence[Prompt], masks: Tensor | None = None, outputs: range = SINGLE
    ) -> Decoded:
        """M masks of each of N prompts of equally many points, xy pixels of the image frame.

        masks: (N, 1, S/4, S/4), low_res_logits of the answer before, or None.
        """
        points = torch.from_numpy(np.stack([prompt.points for prompt in prompts]))
        points = points_to_model_frame(points, self.size, self.model.img_size)
        labels = torch.from_numpy(np.stack([prompt.labels for prompt in prompts]))
        return self.model.decode_all(
            self.embedding,
            points.to(self.device),
            labels.to(self.device),
            masks,
            outputs=outputs,
        )

    def upscale(self, low_res_logits: Tensor) -> Tensor:
        """mask_logits (N, M, H, W) of low_res_logits (N, M, S/4, S/4); -inf where ignored."""
        logits = upscale_logits(low_res_logits, self.model.img_size, self.size)
        return logits if self.ignored is None else logits.masked_fill(self.ignored, -torch.inf)


def frame_of(record: IndexedImage, img_size: int) -> Tensor:
    """The image in the model frame, (3, S, S). Raises RecordError when its size has changed."""
    return image_to_model_frame(read_unchanged(record), img_size)


def prompts_at_once(size: Size, masks: int) -> int:
    """How many prompts of `masks` masks each are answered at once, by the image's pixels (H, W)."""
    return max(1, min(_MOST_PROMPTS, _MOST_LOGITS // (masks * size[0] * size[1])))


def overlaps(masks: Tensor, truths: Tensor) -> Tensor:
    """IoU of masks (..., H, W) with truths that are never empty; shapes are broadcast."""
    shared = (masks & truths).sum((-2, -1))
    return shared.double() / (masks | truths).sum((-2, -1))


def chosen(values: Tensor, places: Tensor) -> Tensor:
    """Of values (P, M, ...) the one at each row's place (P,): (P, ...)."""
    return values[torch.arange(len(values), device=values.device), places]
