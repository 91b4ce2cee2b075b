"""Image that a model has encoded: takes prompts in the image frame and returns masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.coordinates import points_to_model_frame, upscale_windows
from mobile_sam.data.index.table import IndexedImage, read_indexed_image
from mobile_sam.data.masks import Size
from mobile_sam.data.sampling.prompts import Prompt
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.metrics import boundary_f, boundary_iou, dice, iou
from mobile_sam.metrics.mask_crop import MaskCrop
from mobile_sam.models.mask_decoder import SINGLE, Decoded
from mobile_sam.models.sam import Sam

_MAX_PROMPTS = 64
_MAX_LOGITS = 2**26  # 256 MiB in 32 bits


@dataclass(frozen=True, eq=False)
class Comparison:
    """Predicted mask and the truth. Each metric is computed once."""

    prediction: MaskCrop
    truth: MaskCrop

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Return the metrics of a mask, by their columns in tables."""
        return {
            "iou": self.iou,
            "dice": dice(self.prediction, self.truth),
            "boundary_iou": boundary_iou(self.prediction, self.truth),
            "boundary_f": boundary_f(self.prediction, self.truth),
        }

    @cached_property
    def iou(self) -> float:
        """Return the intersection over union."""
        return iou(self.prediction, self.truth)


class PromptResult(NamedTuple):
    """Predictions for P objects that are prompted in the same way.

    prompt: the name in tables. masks: P of them. predicted_iou: (P,).
    sweep: IoU of each object at each of T thresholds, or None.
    ious: the IoU of each object after each click of its session, if clicks are counted.
    objects: the numbers of the P objects among those that were prompted; None: all of these.
    """

    prompt: str
    masks: Sequence[Comparison]
    predicted_iou: Tensor
    sweep: Sequence[Sequence[float]] | None = None
    ious: Sequence[Sequence[float]] | None = None
    objects: Sequence[int] | None = None


class MaskLogits(NamedTuple):
    """Mask logits in a window of an image of (H, W); lower ones lie outside.

    values: (h, w). x0, y0: first column and row of the window.
    """

    values: NDArray[np.floating]
    x0: int
    y0: int
    size: Size

    def above(self, threshold: float) -> MaskCrop:
        """Return the mask of the logits above a threshold."""
        return MaskCrop.tight(self.values > threshold, self.x0, self.y0, self.size)

    def sweep(self, truth: MaskCrop, thresholds: Sequence[float]) -> list[float]:
        """Return the IoU with a mask that is not empty at each threshold."""
        height, width = self.values.shape
        inside = self.values[truth.within((self.x0, self.y0, self.x0 + width, self.y0 + height))]
        result = []
        for threshold in thresholds:
            both = int(np.count_nonzero(inside > threshold))
            area = int(np.count_nonzero(self.values > threshold))
            result.append(both / (truth.area + area - both))
        return result


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
        self.ignored = record.unknown() if record.ignored else None

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

    def upscale(self, low_res_logits: Tensor, threshold: float) -> Iterator[MaskLogits]:
        """Yield the mask logits of low_res_logits (N, S/4, S/4), where they exceed a threshold.

        They are -inf in ignored regions.
        """
        for logits, x0, y0 in upscale_windows(
            low_res_logits, threshold, self.model.img_size, self.size
        ):
            values = logits.cpu().numpy()
            if self.ignored is not None:
                height, width = values.shape
                ignored = self.ignored[y0 : y0 + height, x0 : x0 + width]
                values = np.where(ignored, -np.inf, values)
            yield MaskLogits(values, x0, y0, self.size)

    def predict(self, low_res_logits: Tensor, threshold: float) -> list[MaskCrop]:
        """Return the mask of each of low_res_logits (N, S/4, S/4)."""
        return [logits.above(threshold) for logits in self.upscale(low_res_logits, threshold)]


def load_frame(record: IndexedImage, img_size: int) -> Tensor:
    """Read an image into the model frame, (3, S, S). Raises RecordError if its size has changed."""
    return image_to_model_frame(read_indexed_image(record), img_size)


def prompts_per_batch(size: Size, masks: int) -> int:
    """Return how many prompts with `masks` masks each are decoded at once for a (H, W) image."""
    return max(1, min(_MAX_PROMPTS, _MAX_LOGITS // (masks * size[0] * size[1])))


def select_masks(values: Tensor, indices: Tensor) -> Tensor:
    """Select one of M values (P, M, ...) for each row by its index (P,). Returns (P, ...)."""
    return values[torch.arange(len(values), device=values.device), indices]
