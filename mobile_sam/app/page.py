"""The page, of gradio: a canvas that takes prompts, options, and cards of answers."""

import html
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from mobile_sam.app.asking import Asker
from mobile_sam.app.cards import Shown
from mobile_sam.app.handlers import Handlers, Outputs
from mobile_sam.app.pictures import of_index
from mobile_sam.config import UserError
from mobile_sam.data.index import IndexedImage

LIMIT = "50 MB"  # of a file that is uploaded
_EXAMPLE_SIDE = 192  # pixels of the longest side
_INTRODUCTION = (
    "Click on a thing, or drag a box around it: all models answer, side by side. "
    "A right-click says what is not of it."
)
_OF_THREE = "Of three masks the one that the model rates highest"
_EMPTY = '<p class="empty">Here the masks of all models appear, side by side.</p>'

Handler = Callable[..., Iterator[Outputs]]


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
