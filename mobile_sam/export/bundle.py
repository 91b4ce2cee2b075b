"""Bundles: directories with a model's ONNX files, their description, and `predictor.py`.

A bundle is written completely or not at all, and works without this package.
"""

import logging
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mobile_sam.coordinates import PIXEL_MEAN, PIXEL_STD
from mobile_sam.export.atomic_directory import atomic_directory
from mobile_sam.export.calibration import ExportImages
from mobile_sam.export.onnx_export import DECODER, ENCODER, OPSET, export_onnx, require_onnx
from mobile_sam.export.precision_variants import measure_iou_loss, write_float16, write_int8
from mobile_sam.models.sam import Sam
from mobile_sam.system.atomic_files import file_digest, write_json
from mobile_sam.system.errors import UserError

log = logging.getLogger(__name__)

FORMS = ("float16", "int8")
_DESCRIPTION, _PREDICTOR = "bundle.json", "predictor.py"


def write_bundle(
    model: Sam,
    directory: Path,
    source: dict[str, str],
    forms: Sequence[str] = (),
    images: ExportImages | None = None,
    mask_threshold: float = 0.0,
) -> dict[str, Any]:
    """Write a bundle, replacing an earlier one; return the content of its bundle.json.

    model: on the CPU, in eval mode. source: description of the weights for bundle.json.
    forms: precisions out of FORMS, in addition to float32.
    images: for the calibration of int8 and the evaluation of all forms.
    mask_threshold: default threshold of logits for users of the bundle.
    Raises UserError if packages are missing, if results of a file differ from the model's, and for
    a directory with other contents; then nothing is written.
    """
    require_onnx()
    if forms and images is None:
        raise UserError(f"{directory}: {' and '.join(forms)} need images for evaluation; give some")
    with atomic_directory(directory, _DESCRIPTION) as unfinished:
        description = _write_files(unfinished, model, forms, images)
        description |= {"source": source, "mask_threshold": mask_threshold}
        write_json(unfinished / _DESCRIPTION, description)
        if images is not None:
            description["iou"] = measure_iou_loss(unfinished, forms, images.evaluation)
            write_json(unfinished / _DESCRIPTION, description)
    return description


def _write_files(
    directory: Path, model: Sam, forms: Sequence[str], images: ExportImages | None
) -> dict[str, Any]:
    """Write all files except bundle.json; return the description of them."""
    differences = export_onnx(model, directory)
    files = {"float32": {"encoder": ENCODER, "decoder": DECODER}}
    for form in forms:
        files[form] = _write_variant(form, directory, images, model.img_size)
    shutil.copyfile(Path(__file__).with_name(_PREDICTOR), directory / _PREDICTOR)
    return _describe(model, files, directory) | {"largest_differences": differences}


def _write_variant(
    form: str, directory: Path, images: ExportImages | None, img_size: int
) -> dict[str, str]:
    """Write the files of a smaller form; return their names by part."""
    encoder = f"encoder_{form}.onnx"
    if form == "int8":
        frames = images.frames(img_size) if images else iter(())
        write_int8(directory / ENCODER, directory / encoder, frames)
        return {"encoder": encoder, "decoder": DECODER}  # the decoder takes little of the time
    decoder = f"decoder_{form}.onnx"
    write_float16(directory / ENCODER, directory / encoder)
    write_float16(directory / DECODER, directory / decoder)
    return {"encoder": encoder, "decoder": decoder}


def _describe(model: Sam, forms: dict[str, dict[str, str]], directory: Path) -> dict[str, Any]:
    from mobile_sam.export.predictor import FORMAT

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


def format_table(description: dict[str, Any]) -> str:
    """Format the size and the IoU of each form of a bundle as lines of text."""
    lines = [f"{'form':<10}{'MiB':>8}{'prompts':>9}{'with float32':>14}{'lowest':>8}{'lost':>9}"]
    for form, files in description["forms"].items():
        size = sum(description["bytes"][name] for name in files.values()) / 2**20
        row = description.get("iou", {}).get(form, {})

        lost = row.get("miou_lost")
        lines.append(
            f"{form:<10}{size:>8.1f}{row.get('prompts', ''):>9}{row.get('with_float32', ''):>14}"
            f"{row.get('lowest_with_float32', ''):>8}{'' if lost is None else lost:>9}"
        )
    return "\n".join(lines)
