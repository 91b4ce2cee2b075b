"""Both halves of a model as ONNX files, checked against the model that they were written from.

Names of inputs and outputs are those of SAM's own ONNX example. The encoder takes any number of
images, the decoder any number of prompts on one image, with any number of points.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from mobile_sam.config import UserError
from mobile_sam.models.mask_decoder import ALL
from mobile_sam.models.sam import Sam

log = logging.getLogger(__name__)

OPSET = 20  # the first where GELU is one node; onnxruntime fuses no other form of it
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
TOLERANCE = 1e-3
DECODER_INPUTS = (
    "image_embeddings",  # (1, C, S/16, S/16)
    "point_coords",  # (N, T, 2) xy, model frame
    "point_labels",  # (N, T) float, as SAM numbers them
    "mask_input",  # (N, 1, S/4, S/4)
    "has_mask_input",  # (N,) float, 1 where the row of mask_input counts, 0 elsewhere
)
DECODER_OUTPUTS = ("low_res_masks", "iou_predictions")  # (N, 4, S/4, S/4) and (N, 4)
_BATCHES = (1, 2)
_PROMPTS = ((1, 0), (1, 1), (1, 3), (2, 2), (5, 4))  # of how many points each
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class OnnxDecoder(nn.Module):
    """Prompt encoder and mask decoder as one graph, whose inputs are `DECODER_INPUTS`."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, embedding: Tensor, points: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """All four masks of each prompt: `DECODER_OUTPUTS`."""
        decoded = self.model.decode_all(
            embedding, points, labels.long(), mask, has_mask > 0.5, outputs=ALL
        )
        return decoded.low_res_logits, decoded.predicted_iou


def require_onnx() -> None:
    """Raises UserError that says what to install where a package for ONNX is missing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(
            f"export --onnx: {', '.join(missing)} is not installed; run `pip install -e '.[onnx]'`"
        )


@torch.no_grad()
def export_onnx(model: Sam, directory: Path) -> dict[str, float]:
    """Write encoder.onnx and decoder.onnx into a directory, and check both.

    model: on the CPU, in eval mode.
    Returns the largest differences from `model`, in units of the outputs, by file.
    Raises UserError where one is above TOLERANCE.
    """
    images = torch.zeros(2, 3, model.img_size, model.img_size)
    some = {0: Dim("batch", min=1, max=4096)}
    encoder = _plain_attention(model.image_encoder)
    named = ("images",), ("image_embeddings",)
    _write(encoder, (images,), *named, (some,), directory / ENCODER)
    # Traced with two and more, and right for one and none as well: that is checked.
    some = {0: Dim("prompts", min=2, max=65536)}
    pointed = some | {1: Dim("points", min=2, max=65536)}
    drawn = _decoder_inputs(model, 3, 5, torch.Generator())
    free: tuple[dict[int, Any], ...] = ({}, pointed, pointed, some, some)
    decoder = OnnxDecoder(model).eval()
    _write(decoder, drawn, DECODER_INPUTS, DECODER_OUTPUTS, free, directory / DECODER)
    return {
        ENCODER: _checked(directory / ENCODER, model.image_encoder, _images(model)),
        DECODER: _checked(directory / DECODER, OnnxDecoder(model), _prompts(model)),
    }


def _write(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    free: tuple[dict[int, Any], ...],
    target: Path,
) -> None:
    """free: by input, the dimensions that may be of any size."""
    with warnings.catch_warnings():
        # That inputs share a dimension is meant.
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        program = torch.onnx.export(
            module,
            arguments,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=free,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"{target.name}: torch.onnx.export gave nothing")
    program.save(target)


def _plain_attention(encoder: nn.Module) -> nn.Module:
    """A copy whose attention is written as products: of the fused one ONNX knows only one shape."""
    copied = deepcopy(encoder)
    for module in copied.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    return copied


def _images(model: Sam) -> Iterator[tuple[Tensor, ...]]:
    draw = torch.Generator().manual_seed(0)
    for batch in _BATCHES:
        yield (torch.randn(batch, 3, model.img_size, model.img_size, generator=draw),)


def _prompts(model: Sam) -> Iterator[tuple[Tensor, ...]]:
    draw = torch.Generator().manual_seed(0)
    for prompts, points in _PROMPTS:
        yield _decoder_inputs(model, prompts, points, draw)


def _decoder_inputs(
    model: Sam, prompts: int, points: int, draw: torch.Generator
) -> tuple[Tensor, ...]:
    """Drawn inputs; every second prompt has a mask."""
    encoder = model.prompt_encoder
    side, channels = encoder.grid_size, encoder.embed_dim
    return (
        torch.randn(1, channels, side, side, generator=draw),
        torch.rand(prompts, points, 2, generator=draw) * model.img_size,
        torch.randint(-1, 4, (prompts, points), generator=draw).float(),
        torch.randn(prompts, 1, 4 * side, 4 * side, generator=draw) * 8,
        (torch.arange(prompts) % 2).float(),
    )


def _checked(path: Path, module: nn.Module, inputs: Iterator[tuple[Tensor, ...]]) -> float:
    """The largest difference between a file and what it was written from."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    outputs = [given.name for given in session.get_outputs()]
    largest = 0.0
    for drawn in inputs:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, drawn, strict=True)}
        found: list[NDArray[np.float32]] = session.run(None, arrays)
        wanted = module(*drawn)
        for name, array, tensor in zip(
            outputs, found, [wanted] if isinstance(wanted, Tensor) else wanted, strict=True
        ):
            difference = float(np.abs(array - tensor.numpy()).max())
            if not difference <= TOLERANCE:
                shapes = ", ".join(f"{key} {value.shape}" for key, value in arrays.items())
                raise UserError(
                    f"{path.name}: {name} of onnxruntime differs by {difference:.2g} from that of "
                    f"PyTorch ({shapes}), and {TOLERANCE:g} is allowed; nothing was exported"
                )
            largest = max(largest, difference)
    log.info("%s: differs from PyTorch by at most %.2g", path.name, largest)
    return largest
