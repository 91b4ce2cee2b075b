"""Image that a model has encoded: takes prompts in the image frame and returns masks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mobile_sam.coordinates import points_to_model_frame, upscale_logits
from mobile_sam.data.index.table import IndexedImage, read_indexed_image
from mobile_sam.data.masks import Size
from mobile_sam.data.sampling.prompts import Prompt
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.models.mask_decoder import SINGLE, Decoded
from mobile_sam.models.sam import Sam

_MAX_PROMPTS = 64
_MAX_LOGITS = 2**26  # 256 MiB in 32 bits


class PromptResult(NamedTuple):
    """Predictions for P objects that are prompted in the same way.

    prompt: the name in tables. masks: (P, H, W) bool, image frame. predicted_iou: (P,).
    sweep: (P, T), IoU at each of T thresholds, or None.
    ious: the IoU of each object after each click of its session, if clicks are counted.
    """

    prompt: str
    masks: Tensor
    predicted_iou: Tensor
    sweep: Tensor | None = None
    ious: tuple[tuple[float, ...], ...] | None = None


class EncodedImage:
    """Image that is encoded once for all prompts.

    size: (H, W) of the image in pixels. ignored: (H, W) bool or None: unlabelled pixels, which no
    mask may cover.
    """

    def __init__(self, model: Sam, frame: Tensor, record: IndexedImage) -> None:
        """frame: (3, S, S), as `load_frame` returns it."""
        self.model = model
        self.device = next(model.parameters()).device
        self.size = record.size
        self.embedding = model.image_encoder(frame[None].to(self.device))
        unknown = record.unknown() if record.ignored else None
        self.ignored = None if unknown is None else torch.from_numpy(unknown).to(self.device)

    def decode(
        self, prompts: Sequence[Prompt], masks: Tensor | None = None, outputs: range = SINGLE
    ) -> Decoded:
        """Decode M masks for each of N prompts, all with equally many points, xy, image frame.

        masks: (N, 1, S/4, S/4), low_res_logits of the previous prediction, or None.
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
        """Upscale low_res_logits (N, M, S/4, S/4) to (N, M, H, W); -inf in ignored regions."""
        logits = upscale_logits(low_res_logits, self.model.img_size, self.size)
        return logits if self.ignored is None else logits.masked_fill(self.ignored, -torch.inf)


def load_frame(record: IndexedImage, img_size: int) -> Tensor:
    """Read an image into the model frame, (3, S, S). Raises RecordError if its size has changed."""
    return image_to_model_frame(read_indexed_image(record), img_size)


def prompts_per_batch(size: Size, masks: int) -> int:
    """Return how many prompts with `masks` masks each are decoded at once for a (H, W) image."""
    return max(1, min(_MAX_PROMPTS, _MAX_LOGITS // (masks * size[0] * size[1])))


def mask_iou(masks: Tensor, truths: Tensor) -> Tensor:
    """Return the IoU of masks (..., H, W) with non-empty ground truth; shapes are broadcast."""
    shared = (masks & truths).sum((-2, -1))
    return shared.double() / (masks | truths).sum((-2, -1))


def select_masks(values: Tensor, indices: Tensor) -> Tensor:
    """Select one of M values (P, M, ...) for each row by its index (P,). Returns (P, ...)."""
    return values[torch.arange(len(values), device=values.device), indices]
