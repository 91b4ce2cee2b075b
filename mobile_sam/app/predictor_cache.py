"""Cache of predictors and image embeddings: each model encodes each image once."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch

from mobile_sam.app.images import AppImage
from mobile_sam.app.models import Models
from mobile_sam.data.masks import Mask
from mobile_sam.inference.automatic_masks import automatic_masks
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.prompt import Prompt
from mobile_sam.inference.proposals import AutomaticMask, AutomaticOptions
from mobile_sam.models.device import wait_for

_CAPACITY = 48  # embeddings: 4 MiB each at 1024 pixels
_Result = TypeVar("_Result")


class TimedMask(NamedTuple):
    """Mask of a prompt, with the time it took.

    mask: (H, W), image frame. encoder_ms: encoding of the image, once, with its resizing.
    decoder_ms: from the prompt to the mask in the size of the image.
    """

    mask: Mask
    predicted_iou: float
    encoder_ms: float
    decoder_ms: float


class TimedAutomaticMasks(NamedTuple):
    """Automatic masks by falling predicted_iou, with the time they took.

    encoder_ms: encoding of the image, once. grid_ms: everything after that.
    """

    masks: list[AutomaticMask]
    encoder_ms: float
    grid_ms: float


class PredictorCache:
    """Predictors of several models that share a cache of image embeddings.

    capacity: number of embeddings; the least recently used is dropped first.
    """

    def __init__(self, models: Models, capacity: int = _CAPACITY) -> None:
        self.models = models
        self._capacity = capacity
        self._embeddings: OrderedDict[tuple[str, str], tuple[torch.Tensor, float]] = OrderedDict()

    def is_encoded(self, name: str, image: AppImage) -> bool:
        """Return whether a model's embedding of an image is in the cache."""
        return (name, image.key) in self._embeddings

    def encode(self, name: str, image: AppImage) -> float:
        """Encode an image unless it is cached; return the milliseconds that the encoder took."""
        return self._set_image(name, image)[1]

    def predict(
        self, name: str, image: AppImage, prompt: Prompt, best_of_three: bool = False
    ) -> TimedMask:
        """Predict the mask of a prompt.

        best_of_three: predict three masks, and return the one of the highest predicted IoU.
        """
        predictor, encoder_ms = self._set_image(name, image)
        arguments = prompt.arguments() | {"multimask_output": best_of_three}
        result, decoder_ms = _timed(lambda: predictor.predict(**arguments), predictor.device)
        best = int(result.predicted_iou.argmax())
        predicted_iou = float(result.predicted_iou[best])
        return TimedMask(result.masks[best], predicted_iou, encoder_ms, decoder_ms)

    def automatic_masks(
        self, name: str, image: AppImage, options: AutomaticOptions
    ) -> TimedAutomaticMasks:
        """Segment everything in an image."""
        predictor, encoder_ms = self._set_image(name, image)
        embedding = predictor.get_image_embedding()
        options = replace(options, mask_threshold=predictor.mask_threshold)
        masks, grid_ms = _timed(
            lambda: automatic_masks(predictor.model, image.pixels, options, embedding),
            predictor.device,
        )
        return TimedAutomaticMasks(masks, encoder_ms, grid_ms)

    def _set_image(self, name: str, image: AppImage) -> tuple[SamPredictor, float]:
        """Return a predictor with the image set, and the milliseconds that its encoder took."""
        predictor, key = self.models[name], (name, image.key)
        if key not in self._embeddings:
            _, encoder_ms = _timed(lambda: predictor.set_image(image.pixels), predictor.device)
            self._embeddings[key] = predictor.get_image_embedding(), encoder_ms
            if len(self._embeddings) > self._capacity:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(key)
        embedding, encoder_ms = self._embeddings[key]
        predictor.set_image_embedding(embedding, image.size)
        return predictor, encoder_ms


def _timed(function: Callable[[], _Result], device: torch.device) -> tuple[_Result, float]:
    """Return the result of a function and the milliseconds that it took."""
    wait_for(device)
    started = time.perf_counter()
    result = function()
    wait_for(device)
    return result, 1e3 * (time.perf_counter() - started)
