"""The gallery as a section of the page, and as PNGs beside it."""

from pathlib import Path

from mobile_sam.data.overlays import layer_uri, photo_uri
from mobile_sam.report.blocks import Section, View, Views
from mobile_sam.report.contact_sheets import write_sheet
from mobile_sam.report.gallery import Shot, choose, shots
from mobile_sam.report.measured import Measured
from mobile_sam.report.words import prompt_label

_NOTE = (
    "Every object has a colour of its own, the same in all layers; the white line is the outline "
    "of the ground truth. The number is the image's mean IoU by {prompt}."
)


def gallery(measured: Measured, directory: Path) -> Section | None:
    """Best, median and worst images, and where a step made it worse; None when none is asked for.

    Writes `gallery_<group>.png` for each group.
    """
    chosen = choose(measured)
    if not chosen:
        return None
    titles = {
        "best": f"The best by {measured.main}",
        "median": f"The middle by {measured.main}",
        "worst": f"The worst by {measured.main}",
        "worse": measured.worse,
    }
    found = shots(measured, chosen)
    groups = []
    for name, some in found.items():
        if name == "worse" and not measured.steps:
            continue
        write_sheet(some, directory / f"gallery_{name}.png", titles[name])
        none = "" if some else "No image of this kind."
        groups.append((titles[name], none, [_view(shot) for shot in some]))
    # Each photo alone, then all of its layers.
    names = [
        "image",
        *dict.fromkeys(
            layer.name for some in found.values() for shot in some for layer in shot.layers
        ),
    ]
    order = {name: place for place, name in enumerate(["image", "ground truth", *measured.names])}
    names.sort(key=lambda name: order[name])
    note = _NOTE.format(prompt=prompt_label(measured.first_prompt))
    return Section("gallery", "Gallery", note, [Views(names, groups)])


def _view(shot: Shot) -> View:
    height, width = shot.thumbnail.shape[:2]
    cells: list[tuple[str, str | None, str]] = [("image", None, "")]
    for layer in shot.layers:
        mean = "" if layer.mean_iou is None else f"{layer.mean_iou:.2f}"
        cells.append((layer.name, layer_uri(layer.pixels), mean))
    return View(
        title=shot.image_id,
        words=shot.words,
        width=width,
        height=height,
        photo=photo_uri(shot.thumbnail),
        outline=layer_uri(shot.outline),
        cells=cells,
        chosen=shot.chosen,
    )
