"""What the page does at each event: from what it sends to what it shows next."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import gradio as gr

from mobile_sam.app import cards
from mobile_sam.app.asking import Asker
from mobile_sam.app.cards import Card, Shown
from mobile_sam.app.pictures import Picture, of_index, opened
from mobile_sam.app.prompts import prompt_of
from mobile_sam.app.visit import Visit, answers, beginning, everything
from mobile_sam.config import UserError
from mobile_sam.data.index import IndexedImage
from mobile_sam.inference.proposals import AutomaticOptions

_SIDE = 1536  # pixels of the longest side of the picture that is asked about

Outputs = tuple[Any, Any, Any]  # of visit, canvas and cards


class Handlers:
    """What the page does at each event.

    uploads: the directory of the files that visitors upload; no other is read.
    """

    def __init__(self, asker: Asker, examples: Sequence[IndexedImage], uploads: Path) -> None:
        self.asker = asker
        self.examples = examples
        self.uploads = uploads.resolve()
        self._shows = count(1)

    def first(self, names: list[str]) -> Iterator[Outputs]:
        """The first example, where there is one."""
        if self.examples:
            yield from self._show(of_index(self.examples[0]), names)

    def chosen(self, names: list[str], event: gr.EventData) -> Iterator[Outputs]:
        """An example."""
        number = event._data.get("number")
        if type(number) is not int or not 0 <= number < len(self.examples):
            raise UserError(f"number: {number!r}; there are {len(self.examples)} examples")
        yield from self._show(of_index(self.examples[number]), names)

    def opened(self, names: list[str], event: gr.EventData) -> Iterator[Outputs]:
        """A file that was uploaded."""
        path = Path(str(event._data.get("path"))).resolve()
        if not path.is_relative_to(self.uploads):
            raise UserError("path: not a file that was uploaded")
        yield from self._show(opened(path, str(event._data.get("name"))), names)

    def overtake(self, visit: Visit | None, event: gr.EventData) -> None:
        """End what is under way for the same visitor, at once: something newer waits."""
        if visit is not None:
            visit.turns.newest = max(visit.turns.newest, _turn(event))

    def asked(
        self, visit: Visit | None, names: list[str], of_three: bool, event: gr.EventData
    ) -> Iterator[Outputs]:
        """A prompt on the canvas."""
        if visit is None:
            raise UserError("The app was started anew; open the image again.")
        self.overtake(visit, event)  # requests may arrive in another order than they were sent
        if event._data.get("number") == visit.number:  # else another picture has come between
            prompt = prompt_of(event._data, visit.picture.size)
            visit = replace(visit, prompt=prompt, turn=_turn(event))
            yield from self._ask(visit, names, of_three)

    def again(self, visit: Visit | None, names: list[str], of_three: bool) -> Iterator[Outputs]:
        """The same prompt, of other models or with other options."""
        if visit is not None:
            yield from self._ask(visit.renewed(), names, of_three)

    def _ask(self, visit: Visit, names: list[str], of_three: bool) -> Iterator[Outputs]:
        names = self._order(names)
        if visit.prompt is None:
            yield from _steps(visit, beginning(self.asker, visit, names))
        else:
            yield from _steps(visit, answers(self.asker, visit, visit.prompt, names, of_three))

    def everything(
        self, visit: Visit | None, names: list[str], points: int, least_iou: float, stable: float
    ) -> Iterator[Outputs]:
        """No prompt: everything in the image."""
        if visit is None:
            raise UserError("There is no image yet; open one.")
        options = AutomaticOptions(
            points_per_side=int(points), pred_iou_thresh=least_iou, stability_score_thresh=stable
        )
        visit = visit.renewed()
        yield from _steps(visit, everything(self.asker, visit, self._order(names), options))

    def _show(self, picture: Picture, names: list[str]) -> Iterator[Outputs]:
        visit = Visit(picture, Shown(picture.pixels), next(self._shows))
        height, width = picture.size
        boxes = () if picture.record is None else (one.box for one in picture.record.segments)
        canvas = {
            "photo": Shown(picture.pixels, _SIDE).plain(),
            "title": picture.name,
            "width": width,
            "height": height,
            "boxes": [list(box) for box in boxes],
            "number": visit.number,
        }
        for step in beginning(self.asker, visit, self._order(names)):
            yield visit, canvas, cards.html(step)
            canvas = gr.skip()

    def _order(self, names: list[str]) -> list[str]:
        return [name for name in self.asker.models.names if name in names]


def _turn(event: gr.EventData) -> int:
    turn = event._data.get("turn")
    return turn if type(turn) is int else 0


def _steps(visit: Visit, steps: Iterator[list[Card]]) -> Iterator[Outputs]:
    for step in steps:
        yield visit, gr.skip(), cards.html(step)
