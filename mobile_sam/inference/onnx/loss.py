"""What smaller forms of a model lose: the IoU of their masks, with float32's and with the truth."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mobile_sam.data.images import read_image
from mobile_sam.data.masks import Mask
from mobile_sam.inference.onnx.examples import Judge
from mobile_sam.inference.onnx.predictor import OnnxPredictor
from mobile_sam.metrics.overlap import iou

REFERENCE = "float32"


def iou_lost(bundle: Path, forms: Sequence[str], judges: Sequence[Judge]) -> dict[str, Any]:
    """For each form, over all prompts of the judges, each answered with one mask:

    prompts: how many; with_float32, lowest_with_float32: mean and lowest IoU with the mask of
    float32; and, where the images have segments, miou: with them; miou_lost: how much lower that is
    than float32's.
    """
    predictors = {form: OnnxPredictor(bundle, form) for form in (REFERENCE, *forms)}
    equal: dict[str, list[float]] = defaultdict(list)
    true: dict[str, list[float]] = defaultdict(list)
    for judge in judges:
        pixels = read_image(judge.path)
        truths = judge.truths()
        reference: list[Mask] = []
        for form, predictor in predictors.items():
            predictor.set_image(pixels)
            asked = judge.prompts(predictor.original_size)
            masks = [predictor.predict(**one, multimask_output=False)[0][0] for one in asked]
            reference = reference or masks
            equal[form] += map(iou, masks, reference)
            true[form] += map(iou, masks, truths)
    return {form: _row(equal[form], true[form], true[REFERENCE]) for form in forms}


def _row(equal: list[float], true: list[float], reference: list[float]) -> dict[str, float]:
    row = {
        "with_float32": sum(equal) / len(equal),
        "lowest_with_float32": min(equal),
    }
    if true:
        row["miou"] = sum(true) / len(true)
        row["miou_lost"] = (sum(reference) - sum(true)) / len(true)
    rounded = {name: round(float(value), 5) for name, value in row.items()}
    return {"prompts": len(equal), **rounded}
