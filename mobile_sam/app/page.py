"""The page, of gradio: a canvas that takes prompts, options, and cards of answers."""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial, wraps
from importlib import resources
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

LIMIT = "50 MB"  # of a file that is uploaded
_CANVAS_SIDE, _EXAMPLE_SIDE = 1536, 192  # pixels of the longest side
_INTRODUCTION = (
    "Click on a thing, or drag a box around it: all models answer, side by side. "
    "A right-click says what is not of it."
)
_OF_THREE = "Of three masks the one that the model rates highest"
_EMPTY = '<p class="empty">Here the masks of all models appear, side by side.</p>'

Outputs = tuple[Any, Any, Any]  # of visit, canvas and cards
Handler = Callable[..., Iterator[Outputs]]


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
            "photo": Shown(picture.pixels, _CANVAS_SIDE).plain(),
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


def build_page(
    asker: Asker, examples: Sequence[IndexedImage], uploads: Path, title: str
) -> gr.Blocks:
    """The page, which is not served yet. title: text. Arguments otherwise as of `Handlers`."""
    handlers, models = Handlers(asker, examples, uploads), asker.models
    with gr.Blocks(title=f"{title} · mobile_sam", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(f"<h1>{html.escape(title)}</h1><p>{_INTRODUCTION}</p>", elem_id="title")
        visit = gr.State()
        with gr.Row(elem_id="desk"):
            with gr.Column(elem_id="asking", scale=4, min_width=320):
                canvas = _canvas(examples)
                with gr.Column(elem_id="options"):
                    chosen = list(models.first)
                    names = gr.CheckboxGroup(list(models.names), value=chosen, label="Models")
                    of_three = gr.Checkbox(label=_OF_THREE)
                    with gr.Accordion("Everything in the image", open=False):
                        sliders = _sliders()
                        find = gr.Button("Find everything", variant="primary")
            with gr.Column(elem_id="answers", scale=6, min_width=320):
                shown = gr.HTML(
                    _EMPTY, js_on_load=_own("cards.js"), elem_id="cards", apply_default_css=False
                )
        on = partial(_on, [visit, canvas, shown])
        for event in (canvas.chosen, canvas.opened, canvas.asked):
            event(handlers.overtake, [visit], queue=False, api_visibility="private")
        on(page.load, handlers.first, [names])
        on(canvas.chosen, handlers.chosen, [names])
        on(canvas.opened, handlers.opened, [names])
        on(canvas.asked, handlers.asked, [visit, names, of_three])
        for option in (names, of_three):
            on(option.input, handlers.again, [visit, names, of_three])
        on(find.click, handlers.everything, [visit, names, *sliders])
    return page


def _canvas(examples: Sequence[IndexedImage]) -> gr.HTML:
    small = [
        {"name": one.image_id, "photo": Shown(of_index(one).pixels, _EXAMPLE_SIDE).plain()}
        for one in examples
    ]
    return gr.HTML(
        None,
        html_template=_own("canvas.html"),
        js_on_load=_own("canvas.js"),
        apply_default_css=False,
        elem_id="canvas",
        examples=small,
        limit=LIMIT,
    )


def _sliders() -> list[gr.Slider]:
    return [
        gr.Slider(4, 32, 16, step=1, label="Points per side"),
        gr.Slider(0, 1, 0.5, step=0.01, label="Least predicted IoU"),
        gr.Slider(0, 1, 0.5, step=0.01, label="Least stability"),
    ]


def _on(outputs: list[Any], event: Any, handler: Handler, inputs: list[Any]) -> None:
    # One at a time: predictors hold one image, and times would be those of each other.
    event(
        _told(handler),
        inputs,
        outputs,
        show_progress="hidden",
        trigger_mode="multiple",  # with "always_last" gradio sends what an earlier event said
        concurrency_id="models",
        concurrency_limit=1,
        api_visibility="private",
    )


def _told(handler: Handler) -> Handler:
    """As the handler, with errors of the visitor in a box on the page."""

    @wraps(handler)
    def wrapped(*arguments: Any) -> Iterator[Outputs]:
        # A handler without any step would empty the page.
        yield gr.skip(), gr.skip(), gr.skip()
        try:
            yield from handler(*arguments)
        except UserError as error:
            # gradio takes the text for HTML.
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    return wrapped


def _turn(event: gr.EventData) -> int:
    turn = event._data.get("turn")
    return turn if type(turn) is int else 0


def _steps(visit: Visit, steps: Iterator[list[Card]]) -> Iterator[Outputs]:
    for step in steps:
        yield visit, gr.skip(), cards.html(step)


def _own(name: str) -> str:
    """A file of this package."""
    return resources.files("mobile_sam.app").joinpath(name).read_text()


_LIGHT, _DARK = ("#ffffff", "#0072b2", "#dddcd7"), ("#15171a", "#56b4e9", "#373b41")
# Fonts of the system: those of gradio's own themes are fetched.
STYLE: dict[str, Any] = {
    "theme": gr.themes.Base(
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill=_LIGHT[0],
        body_background_fill_dark=_DARK[0],
        color_accent=_LIGHT[1],
        button_primary_background_fill=_LIGHT[1],
        button_primary_background_fill_dark=_DARK[1],
        button_primary_background_fill_hover=_LIGHT[1],
        button_primary_background_fill_hover_dark=_DARK[1],
        button_primary_text_color=_LIGHT[0],
        button_primary_text_color_dark=_DARK[0],
    ),
    "css": _own("page.css"),
}
