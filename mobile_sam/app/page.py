"""The gradio page: a canvas for prompts, options, and cards of results."""

import html
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from mobile_sam.app.cards import RenderedImage
from mobile_sam.app.handlers import Handlers, Outputs
from mobile_sam.app.images import indexed_image
from mobile_sam.app.predictor_cache import PredictorCache
from mobile_sam.data.index.table import IndexedImage
from mobile_sam.system.errors import UserError

MAX_UPLOAD = "50 MB"
_THUMBNAIL_SIDE = 192  # pixels of the longest side
_INTRODUCTION = (
    "Click on an object, or drag a box around it. The masks of all models appear side by side. "
    "Right-click to mark background."
)
_BEST_OF_THREE = "Best of three masks, by predicted IoU"
_EMPTY = '<p class="empty">The masks of all models appear here, side by side.</p>'

Handler = Callable[..., Iterator[Outputs]]


def build_page(
    predictors: PredictorCache, examples: Sequence[IndexedImage], uploads: Path, title: str
) -> gr.Blocks:
    """Build the page without serving it. title: plain text. Other arguments: see `Handlers`."""
    handlers, models = Handlers(predictors, examples, uploads), predictors.models
    with gr.Blocks(title=f"{title} · mobile_sam", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(f"<h1>{html.escape(title)}</h1><p>{_INTRODUCTION}</p>", elem_id="title")
        session = gr.State()
        with gr.Row(elem_id="desk"):
            with gr.Column(elem_id="asking", scale=4, min_width=320):
                canvas = _canvas(examples)
                with gr.Column(elem_id="options"):
                    selected = list(models.first)
                    names = gr.CheckboxGroup(list(models.names), value=selected, label="Models")
                    best_of_three = gr.Checkbox(label=_BEST_OF_THREE)
                    with gr.Accordion("Automatic masks", open=False):
                        sliders = _sliders()
                        everything = gr.Button("Segment everything", variant="primary")
            with gr.Column(elem_id="answers", scale=6, min_width=320):
                cards = gr.HTML(
                    _EMPTY,
                    js_on_load=_package_file("cards.js"),
                    elem_id="cards",
                    apply_default_css=False,
                )
        on = partial(_on, [session, canvas, cards])
        for event in (canvas.example_selected, canvas.uploaded, canvas.prompted):
            event(handlers.supersede, [session], queue=False, api_visibility="private")
        on(page.load, handlers.open_first, [names])
        on(canvas.example_selected, handlers.open_example, [names])
        on(canvas.uploaded, handlers.open_upload, [names])
        on(canvas.prompted, handlers.predict, [session, names, best_of_three])
        for option in (names, best_of_three):
            on(option.input, handlers.predict_again, [session, names, best_of_three])
        on(everything.click, handlers.segment_everything, [session, names, *sliders])
    return page


def _canvas(examples: Sequence[IndexedImage]) -> gr.HTML:
    thumbnails = []
    for record in examples:
        rendered = RenderedImage(indexed_image(record).pixels, _THUMBNAIL_SIDE)
        thumbnails.append({"name": record.image_id, "photo": rendered.uri()})
    return gr.HTML(
        None,
        html_template=_package_file("canvas.html"),
        js_on_load=_package_file("canvas.js"),
        apply_default_css=False,
        elem_id="canvas",
        examples=thumbnails,
        limit=MAX_UPLOAD,
    )


def _sliders() -> list[gr.Slider]:
    return [
        gr.Slider(4, 32, 16, step=1, label="Points per side"),
        gr.Slider(0, 1, 0.5, step=0.01, label="Minimum predicted IoU"),
        gr.Slider(0, 1, 0.5, step=0.01, label="Minimum stability score"),
    ]


def _on(outputs: list[Any], event: Any, handler: Handler, inputs: list[Any]) -> None:
    # One at a time: a predictor holds one image, and concurrent work would distort the times.
    event(
        _with_error_messages(handler),
        inputs,
        outputs,
        show_progress="hidden",
        trigger_mode="multiple",  # with "always_last" gradio sends the data of an earlier event
        concurrency_id="models",
        concurrency_limit=1,
        api_visibility="private",
    )


def _with_error_messages(handler: Handler) -> Handler:
    """Wrap a handler so that a UserError appears as a message on the page."""

    @wraps(handler)
    def wrapped(*arguments: Any) -> Iterator[Outputs]:
        # A handler that yields nothing would empty the page.
        yield gr.skip(), gr.skip(), gr.skip()
        try:
            yield from handler(*arguments)
        except UserError as error:
            # gradio interprets the text as HTML.
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    return wrapped


def _package_file(name: str) -> str:
    """Read a text file of this package."""
    return resources.files("mobile_sam.app").joinpath(name).read_text(encoding="utf-8")


_LIGHT, _DARK = ("#ffffff", "#0072b2", "#dddcd7"), ("#15171a", "#56b4e9", "#373b41")
# Fonts of the system: the fonts of gradio's own themes are downloaded.
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
    "css": _package_file("page.css"),
}
