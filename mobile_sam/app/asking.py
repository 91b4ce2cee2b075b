"""Models are asked about pictures: each picture is encoded once by each model, and kept."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch

from mobile_sam.app.models import Models
from mobile_sam.app.pictures import Picture
from mobile_sam.data.masks import Mask
from mobile_sam.inference.automatic_masks import automatic_masks
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.prompt import Prompt
from mobile_sam.inference.proposals import AutomaticMask, AutomaticOptions
from mobile_sam.models.device import wait_for

_KEPT = 48  # embeddings: 4 MiB each at 1024 pixels
_Made = TypeVar("_Made")


class Answer(NamedTuple):
    """What a model says to a prompt.

    mask: (H, W), image frame. encoder_ms: of the picture, once, with its resizing. decoder_ms: from
    the prompt to the mask in the size of the picture.
    """

    mask: Mask
    predicted_iou: float
    encoder_ms: float
    decoder_ms: float


class Everything(NamedTuple):
    """All that a model finds without a prompt, by falling predicted_iou.

    encoder_ms: of the picture, once. grid_ms: of everything after that.
    """

    masks: list[AutomaticMask]
    encoder_ms: float
    grid_ms: float


class Asker:
    """Asks models, one at a time.

    kept: embeddings of pictures; the one that was used longest ago goes first.
    """

    def __init__(self, models: Models, kept: int = _KEPT) -> None:
        self.models = models
        self._kept = kept
        self._embeddings: OrderedDict[tuple[str, str], tuple[torch.Tensor, float]] = OrderedDict()

    def has_encoded(self, name: str, picture: Picture) -> bool:
        """Whether a model can answer at once."""
        return (name, picture.key) in self._embeddings

    def encode(self, name: str, picture: Picture) -> float:
        """Milliseconds that the encoder of a model takes, or took, for a picture."""
        return self._encoded(name, picture)[1]

    def answer(self, name: str, picture: Picture, prompt: Prompt, of_three: bool = False) -> Answer:
        """The one mask of a model; with `of_three` that of three which it rates highest."""
        predictor, encoder_ms = self._encoded(name, picture)
        asked = prompt.arguments() | {"multimask_output": of_three}
        found, decoder_ms = _timed(lambda: predictor.predict(**asked), predictor.device)
        best = int(found.predicted_iou.argmax())
        predicted_iou = float(found.predicted_iou[best])
        return Answer(found.masks[best], predicted_iou, encoder_ms, decoder_ms)

    def everything(self, name: str, picture: Picture, options: AutomaticOptions) -> Everything:
        """All masks of a model that `options` let pass."""
        predictor, encoder_ms = self._encoded(name, picture)
        embedding = predictor.get_image_embedding()
        asked = replace(options, mask_threshold=predictor.mask_threshold)
        masks, grid_ms = _timed(
            lambda: automatic_masks(predictor.model, picture.pixels, asked, embedding),
            predictor.device,
        )
        return Everything(masks, encoder_ms, grid_ms)

    def _encoded(self, name: str, picture: Picture) -> tuple[SamPredictor, float]:
        """A predictor with the picture set, and the milliseconds that its encoder took."""
        predictor, key = self.models[name], (name, picture.key)
        if key not in self._embeddings:
            _, spent = _timed(lambda: predictor.set_image(picture.pixels), predictor.device)
            self._embeddings[key] = predictor.get_image_embedding(), spent
            if len(self._embeddings) > self._kept:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(key)
        embedding, spent = self._embeddings[key]
        predictor.set_image_embedding(embedding, picture.size)
        return predictor, spent


def _timed(work: Callable[[], _Made], device: torch.device) -> tuple[_Made, float]:
    """What `work` gives, and the milliseconds it takes."""
    wait_for(device)
    began = time.perf_counter()
    made = work()
    wait_for(device)
    return made, 1e3 * (time.perf_counter() - began)
