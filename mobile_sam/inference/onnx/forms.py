"""Smaller forms of exported files: float16, and static int8 from calibration images."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frames = Iterable[NDArray[np.float32]]  # (1, 3, S, S) each, as the encoder takes them

# Products of two results stay in float: attention loses most of its accuracy in 8 bits.
_WITH_WEIGHTS = ("Conv", "MatMul", "Gemm")


def write_float16(source: Path, target: Path) -> None:
    """Write a float32 file with weights and arithmetic in float16; its inputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    small = OnnxModel(convert_float_to_float16(onnx.load(source), keep_io_types=True))
    small.topological_sort()  # casts of inputs are put last
    onnx.save(small.model, target)


def write_int8(source: Path, target: Path, frames: Frames) -> None:
    """Write an encoder whose convolutions and products with weights are in 8 bits.

    Weights are symmetric, have a scale for each channel, and take 7 bits: with 8, sums of products
    overflow on CPUs without VNNI. Of activations the range is the widest that the calibration
    images show. LayerNorm, softmax, GELU and attention stay in float32.
    frames: calibration images in the model frame, one at least.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as place:
        # Folds what is constant, and names every node.
        prepared = Path(place) / source.name
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            _reader(frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_WITH_WEIGHTS),
            nodes_to_exclude=_products_of_results(prepared),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _reader(frames: Frames) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out one frame after the other."""

        def __init__(self) -> None:
            self.frames = iter(frames)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            frame = next(self.frames, None)
            return None if frame is None else {"images": frame}

    return Reader()


def _products_of_results(path: Path) -> list[str]:
    """Names of the matrix products in a file that have no weights among their factors."""
    import onnx

    graph = onnx.load(path).graph
    weights = {initializer.name for initializer in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and not weights.intersection(node.input)
    ]
