"""Handlers of the page's events: from the data that the page sends to its next state."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import gradio as gr

from mobile_sam.app import cards
from mobile_sam.app.cards import Card, RenderedImage
from mobile_sam.app.images import AppImage, indexed_image, uploaded_image
from mobile_sam.app.predictor_cache import PredictorCache
from mobile_sam.app.prompts import parse_prompt
from mobile_sam.app.session import Session, automatic_cards, encoding_cards, prompt_cards
from mobile_sam.data.index.table import IndexedImage
from mobile_sam.inference.proposals import AutomaticOptions
from mobile_sam.system.errors import UserError

_CANVAS_SIDE = 1536  # pixels of the longest side of the image on the canvas

Outputs = tuple[Any, Any, Any]  # session, canvas and cards


class Handlers:
    """Handlers of the page's events.

    uploads: the directory of uploaded files; no other files are read.
    """

    def __init__(
        self, predictors: PredictorCache, examples: Sequence[IndexedImage], uploads: Path
    ) -> None:
        self.predictors = predictors
        self.examples = examples
        self.uploads = uploads.resolve()
        self._image_numbers = count(1)

    def open_first(self, names: list[str]) -> Iterator[Outputs]:
        """Open the first example, if there is one."""
        if self.examples:
            yield from self._open(indexed_image(self.examples[0]), names)

    def open_example(self, names: list[str], event: gr.EventData) -> Iterator[Outputs]:
        """Open the example of the event's number."""
        number = event._data.get("number")
        if type(number) is not int or not 0 <= number < len(self.examples):
            raise UserError(f"number: {number!r}; there are {len(self.examples)} examples")
        yield from self._open(indexed_image(self.examples[number]), names)

    def open_upload(self, names: list[str], event: gr.EventData) -> Iterator[Outputs]:
        """Open an uploaded file."""
        path = Path(str(event._data.get("path"))).resolve()
        if not path.is_relative_to(self.uploads):
            raise UserError("path: not a file that was uploaded")
        name, options = str(event._data.get("name")), self.predictors.models.image_options
        yield from self._open(uploaded_image(path, name, options), names)

    def supersede(self, session: Session | None, event: gr.EventData) -> None:
        """Stop the visitor's earlier requests at once, because a newer one waits."""
        if session is not None:
            session.requests.newest = max(session.requests.newest, _request(event))

    def predict(
        self, session: Session | None, names: list[str], best_of_three: bool, event: gr.EventData
    ) -> Iterator[Outputs]:
        """Predict the masks of a prompt on the canvas."""
        if session is None:
            raise UserError("The app was restarted; open the image again.")
        self.supersede(session, event)  # requests may arrive in another order than they were sent
        if event._data.get("number") == session.number:  # no other image was opened since
            prompt = parse_prompt(event._data, session.image.size)
            session = replace(session, prompt=prompt, request=_request(event))
            yield from self._predict(session, names, best_of_three)

    def predict_again(
        self, session: Session | None, names: list[str], best_of_three: bool
    ) -> Iterator[Outputs]:
        """Predict the same prompt with other models or options."""
        if session is not None:
            yield from self._predict(session.as_newest(), names, best_of_three)

    def _predict(
        self, session: Session, names: list[str], best_of_three: bool
    ) -> Iterator[Outputs]:
        names = self._in_order(names)
        if session.prompt is None:
            steps = encoding_cards(self.predictors, session, names)
        else:
            steps = prompt_cards(self.predictors, session, session.prompt, names, best_of_three)
        yield from _outputs(session, steps)

    def segment_everything(
        self,
        session: Session | None,
        names: list[str],
        points: int,
        min_iou: float,
        min_stability: float,
    ) -> Iterator[Outputs]:
        """Predict automatic masks."""
        if session is None:
            raise UserError("There is no image yet; open one.")
        options = AutomaticOptions(
            points_per_side=int(points),
            pred_iou_thresh=min_iou,
            stability_score_thresh=min_stability,
        )
        session = session.as_newest()
        steps = automatic_cards(self.predictors, session, self._in_order(names), options)
        yield from _outputs(session, steps)

    def _open(self, image: AppImage, names: list[str]) -> Iterator[Outputs]:
        session = Session(image, RenderedImage(image.pixels), next(self._image_numbers))
        height, width = image.size
        segments = () if image.record is None else image.record.segments
        canvas = {
            "photo": RenderedImage(image.pixels, _CANVAS_SIDE).uri(),
            "title": image.name,
            "width": width,
            "height": height,
            "boxes": [list(segment.box) for segment in segments],
            "number": session.number,
        }
        for step in encoding_cards(self.predictors, session, self._in_order(names)):
            yield session, canvas, cards.html(step)
            canvas = gr.skip()

    def _in_order(self, names: list[str]) -> list[str]:
        return [name for name in self.predictors.models.names if name in names]


def _request(event: gr.EventData) -> int:
    request = event._data.get("request")
    return request if type(request) is int else 0


def _outputs(session: Session, steps: Iterator[list[Card]]) -> Iterator[Outputs]:
    for step in steps:
        yield session, gr.skip(), cards.html(step)
