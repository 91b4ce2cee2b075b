"""A bundle: a directory with a model's ONNX files, what to know of them, and `predictor.py`.

It is there whole or not at all, and needs nothing of this package.
"""

import logging
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mobile_sam.config import UserError
from mobile_sam.data.transforms import PIXEL_MEAN, PIXEL_STD
from mobile_sam.files import file_digest, write_json
from mobile_sam.inference.onnx.directory import whole_directory
from mobile_sam.inference.onnx.examples import Examples
from mobile_sam.inference.onnx.export import DECODER, ENCODER, OPSET, export_onnx, require_onnx
from mobile_sam.inference.onnx.forms import write_float16, write_int8
from mobile_sam.models.sam import Sam

log = logging.getLogger(__name__)

FORMS = ("float16", "int8")
_ABOUT, _PREDICTOR = "bundle.json", "predictor.py"


def write_bundle(
    model: Sam,
    directory: Path,
    source: dict[str, str],
    forms: Sequence[str] = (),
    examples: Examples | None = None,
    mask_threshold: float = 0.0,
) -> dict[str, Any]:
    """Write a bundle, in place of one that is there; returns what its bundle.json says.

    model: on the CPU, in eval mode. source: what the bundle is to say of it.
    forms: of FORMS, beside float32. examples: images to calibrate int8 with, and to judge all
    forms by. mask_threshold: of logits, for who uses the bundle.
    Raises UserError where packages are missing, where a file gives other results than the model,
    and for a directory of something else; then nothing is written.
    """
    require_onnx()
    if forms and examples is None:
        raise UserError(
            f"{directory}: {' and '.join(forms)} need images to be judged by; name some"
        )
    with whole_directory(directory, _ABOUT) as unfinished:
        about = _fill(unfinished, model, forms, examples)
        about |= {"source": source, "mask_threshold": mask_threshold}
        write_json(unfinished / _ABOUT, about)
        if examples is not None:
            from mobile_sam.inference.onnx.loss import iou_lost

            about["iou"] = iou_lost(unfinished, forms, examples.judges)
            write_json(unfinished / _ABOUT, about)
    return about


def _fill(
    directory: Path, model: Sam, forms: Sequence[str], examples: Examples | None
) -> dict[str, Any]:
    """Write all files but bundle.json; returns what that is to say of them."""
    differences = export_onnx(model, directory)
    files = {"float32": {"encoder": ENCODER, "decoder": DECODER}}
    for form in forms:
        files[form] = _write_form(form, directory, examples, model.img_size)
    shutil.copyfile(Path(__file__).with_name(_PREDICTOR), directory / _PREDICTOR)
    return _about(model, files, directory) | {"largest_differences": differences}


def _write_form(
    form: str, directory: Path, examples: Examples | None, img_size: int
) -> dict[str, str]:
    """Write the files of a form beside those of float32; returns their names by part."""
    encoder = f"encoder_{form}.onnx"
    if form == "int8":
        frames = examples.frames(img_size) if examples else iter(())
        write_int8(directory / ENCODER, directory / encoder, frames)
        return {"encoder": encoder, "decoder": DECODER}  # a small share of the time
    decoder = f"decoder_{form}.onnx"
    write_float16(directory / ENCODER, directory / encoder)
    write_float16(directory / DECODER, directory / decoder)
    return {"encoder": encoder, "decoder": decoder}


def _about(model: Sam, forms: dict[str, dict[str, str]], directory: Path) -> dict[str, Any]:
    from mobile_sam.inference.onnx.predictor import FORMAT

    return {
        "format": FORMAT,
        "opset": OPSET,
        "img_size": model.img_size,
        "pixel_mean": PIXEL_MEAN,
        "pixel_std": PIXEL_STD,
        "resize": "longest side to img_size, bilinear as Pillow does it; then normalised, then "
        "padded below and right with zeros",
        "labels": {
            "padding": -1,
            "background": 0,
            "foreground": 1,
            "top left": 2,
            "bottom right": 3,
        },
        "forms": forms,
        "sha256": {path.name: file_digest(path) for path in sorted(directory.glob("*.onnx*"))},
        "bytes": {path.name: path.stat().st_size for path in sorted(directory.glob("*.onnx*"))},
        "versions": {
            name: version(name) for name in ("mobile_sam", "torch", "onnx", "onnxruntime")
        },
    }


def table(about: dict[str, Any]) -> str:
    """The forms of a bundle as lines of text: their size, and the IoU of their masks."""
    lines = [f"{'form':<10}{'MiB':>8}{'prompts':>9}{'with float32':>14}{'lowest':>8}{'lost':>9}"]
    for form, files in about["forms"].items():
        size = sum(about["bytes"][name] for name in files.values()) / 2**20
        row = about.get("iou", {}).get(form, {})
        lost = row.get("miou_lost")
        lines.append(
            f"{form:<10}{size:>8.1f}{row.get('prompts', ''):>9}{row.get('with_float32', ''):>14}"
            f"{row.get('lowest_with_float32', ''):>8}{'' if lost is None else lost:>9}"
        )
    return "\n".join(lines)
