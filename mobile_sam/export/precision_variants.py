"""Smaller forms of exported files, float16 and static int8, and the IoU that they lose."""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.data.masks import Mask
from mobile_sam.export.calibration import EvaluationImage
from mobile_sam.metrics.overlap import iou

Frames = Iterable[NDArray[np.float32]]  # (1, 3, S, S) each, inputs of the encoder

# Products of two activations stay in float: attention loses most of its accuracy in 8 bits.
_OPS_WITH_WEIGHTS = ("Conv", "MatMul", "Gemm")
_REFERENCE = "float32"


def write_float16(source: Path, target: Path) -> None:
    """Convert the weights and arithmetic of a float32 file to float16; inputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted = OnnxModel(convert_float_to_float16(onnx.load(source), keep_io_types=True))
    converted.topological_sort()  # the conversion appends casts of inputs at the end
    onnx.save(converted.model, target)


def write_int8(source: Path, target: Path, frames: Frames) -> None:
    """Quantise the convolutions and products with weights of an encoder to 8 bits.

    Weights are symmetric, have a scale for each channel, and take 7 bits: with 8, sums of products
    overflow on CPUs without VNNI. Activations have the widest range in the calibration images.
    LayerNorm, softmax, GELU and attention stay in float32.
    frames: calibration images in the model frame, at least one.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as directory:
        # Folds constants and names every node.
        prepared = Path(directory) / source.name
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _reader(frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPS_WITH_WEIGHTS),
            nodes_to_exclude=_products_of_activations(prepared),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _reader(frames: Frames) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Reader that returns one frame after another."""

        def __init__(self) -> None:
            self.frames = iter(frames)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            frame = next(self.frames, None)
            return None if frame is None else {"images": frame}

    return Reader()


def _products_of_activations(path: Path) -> list[str]:
    """Return the names of the matrix products in a file without weights among their factors."""
    import onnx

    graph = onnx.load(path).graph
    weights = {initializer.name for initializer in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and not weights.intersection(node.input)
    ]


def measure_iou_loss(
    bundle: Path, forms: Sequence[str], images: Sequence[EvaluationImage]
) -> dict[str, Any]:
    """Measure the IoU of each form's masks with float32's masks and with the ground truth.

    Returns for each form, over one mask for each prompt of the images: prompts, their number;
    with_float32 and lowest_with_float32, the mean and lowest IoU with float32's mask; and, if the
    images have segments, miou, the mean IoU with them, and miou_lost, its difference from
    float32's.
    """
    from mobile_sam.export.predictor import OnnxPredictor

    predictors = {form: OnnxPredictor(bundle, form) for form in (_REFERENCE, *forms)}
    with_float32: dict[str, list[float]] = defaultdict(list)
    with_truth: dict[str, list[float]] = defaultdict(list)
    for image in images:
        pixels = image.pixels()
        truths = image.truths()
        reference: list[Mask] = []
        for form, predictor in predictors.items():
            predictor.set_image(pixels)
            prompts = image.prompts(predictor.original_size)
            masks = [predictor.predict(**p, multimask_output=False)[0][0] for p in prompts]
            reference = reference or masks
            with_float32[form] += map(iou, masks, reference)
            with_truth[form] += map(iou, masks, truths)
    reference_ious = with_truth[_REFERENCE]
    return {form: _loss_row(with_float32[form], with_truth[form], reference_ious) for form in forms}


def _loss_row(
    with_float32: list[float], with_truth: list[float], reference: list[float]
) -> dict[str, float]:
    row = {
        "with_float32": sum(with_float32) / len(with_float32),
        "lowest_with_float32": min(with_float32),
    }
    if with_truth:
        row["miou"] = sum(with_truth) / len(with_truth)
        row["miou_lost"] = (sum(reference) - sum(with_truth)) / len(with_truth)
    rounded = {name: round(float(value), 5) for name, value in row.items()}
    return {"prompts": len(with_float32), **rounded}
