"""Export of a model's encoder and decoder as ONNX files, which are checked against the model.

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

from mobile_sam.models.mask_decoder import ALL
from mobile_sam.models.sam import Sam
from mobile_sam.system.errors import UserError

log = logging.getLogger(__name__)

OPSET = 20  # the first with GELU as one node; onnxruntime does not fuse it otherwise
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
TOLERANCE = 1e-3
DECODER_INPUTS = (
    "image_embeddings",  # (1, C, S/16, S/16)
    "point_coords",  # (N, T, 2) xy, model frame
    "point_labels",  # (N, T) float, as SAM numbers them
    "mask_input",  # (N, 1, S/4, S/4)
    "has_mask_input",  # (N,) float, 1 where the row of mask_input is used, 0 elsewhere
)
DECODER_OUTPUTS = ("low_res_masks", "iou_predictions")  # (N, 4, S/4, S/4) and (N, 4)
_BATCH_SIZES = (1, 2)
_PROMPT_SIZES = ((1, 0), (1, 1), (1, 3), (2, 2), (5, 4))  # prompts, points of each
_REQUIRED_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class OnnxDecoder(nn.Module):
    """Prompt encoder and mask decoder as one graph with the inputs `DECODER_INPUTS`."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, embedding: Tensor, points: Tensor, labels: Tensor, mask: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return all four masks of each prompt: `DECODER_OUTPUTS`."""
        decoded = self.model.decode_all(
            embedding, points, labels.long(), mask, has_mask > 0.5, outputs=ALL
        )
        return decoded.low_res_logits, decoded.predicted_iou


def require_onnx() -> None:
    """Raise UserError with the install command if a package for ONNX is missing."""
    missing = [name for name in _REQUIRED_PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"export --onnx: {', '.join(missing)} is not installed; run `pip install -e '.[onnx]'`"
        )


@torch.no_grad()
def export_onnx(model: Sam, directory: Path) -> dict[str, float]:
    """Write encoder.onnx and decoder.onnx into a directory, and check both.

    model: on the CPU, in eval mode.
    Returns the largest difference from `model` for each file, in units of its outputs.
    Raises UserError if one is above TOLERANCE.
    """
    images = torch.zeros(2, 3, model.img_size, model.img_size)
    any_batch = {0: Dim("batch", min=1, max=4096)}
    encoder = _without_fused_attention(model.image_encoder)
    names = ("images",), ("image_embeddings",)
    _write(encoder, (images,), *names, (any_batch,), directory / ENCODER)
    # Traced with two or more; the check below also covers one prompt, and none or one point.
    prompts = {0: Dim("prompts", min=2, max=65536)}
    points = prompts | {1: Dim("points", min=2, max=65536)}
    inputs = _random_decoder_inputs(model, 3, 5, torch.Generator())
    dynamic_shapes: tuple[dict[int, Any], ...] = ({}, points, points, prompts, prompts)
    decoder = OnnxDecoder(model).eval()
    _write(decoder, inputs, DECODER_INPUTS, DECODER_OUTPUTS, dynamic_shapes, directory / DECODER)
    return {
        ENCODER: _largest_difference(
            directory / ENCODER, model.image_encoder, _random_images(model)
        ),
        DECODER: _largest_difference(
            directory / DECODER, OnnxDecoder(model), _random_prompts(model)
        ),
    }


def _write(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[dict[int, Any], ...],
    target: Path,
) -> None:
    """Write a module as ONNX. dynamic_shapes: for each input, the dimensions of any size."""
    with warnings.catch_warnings():
        # Inputs share dimensions on purpose.
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        program = torch.onnx.export(
            module,
            arguments,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"{target.name}: torch.onnx.export returned no program")
    program.save(target)


def _without_fused_attention(encoder: nn.Module) -> nn.Module:
    """Copy an encoder without fused attention, which ONNX supports for a single shape only."""
    copy = deepcopy(encoder)
    for module in copy.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    return copy


def _random_images(model: Sam) -> Iterator[tuple[Tensor, ...]]:
    rng = torch.Generator().manual_seed(0)
    for batch in _BATCH_SIZES:
        yield (torch.randn(batch, 3, model.img_size, model.img_size, generator=rng),)


def _random_prompts(model: Sam) -> Iterator[tuple[Tensor, ...]]:
    rng = torch.Generator().manual_seed(0)
    for prompts, points in _PROMPT_SIZES:
        yield _random_decoder_inputs(model, prompts, points, rng)


def _random_decoder_inputs(
    model: Sam, prompts: int, points: int, rng: torch.Generator
) -> tuple[Tensor, ...]:
    """Draw inputs of the decoder; every second prompt has a mask."""
    encoder = model.prompt_encoder
    side, channels = encoder.grid_size, encoder.embed_dim
    return (
        torch.randn(1, channels, side, side, generator=rng),
        torch.rand(prompts, points, 2, generator=rng) * model.img_size,
        torch.randint(-1, 4, (prompts, points), generator=rng).float(),
        torch.randn(prompts, 1, 4 * side, 4 * side, generator=rng) * 8,
        (torch.arange(prompts) % 2).float(),
    )


def _largest_difference(
    path: Path, module: nn.Module, batches: Iterator[tuple[Tensor, ...]]
) -> float:
    """Return the largest difference between the outputs of a file and of its module.

    Raises UserError if it is above TOLERANCE.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    input_names = [node.name for node in session.get_inputs()]
    output_names = [node.name for node in session.get_outputs()]
    largest = 0.0
    for inputs in batches:
        arrays = {name: tensor.numpy() for name, tensor in zip(input_names, inputs, strict=True)}
        results: list[NDArray[np.float32]] = session.run(None, arrays)
        outputs = module(*inputs)
        expected = [outputs] if isinstance(outputs, Tensor) else outputs
        for name, result, tensor in zip(output_names, results, expected, strict=True):
            difference = float(np.abs(result - tensor.numpy()).max())
            if not difference <= TOLERANCE:
                shapes = ", ".join(f"{key} {value.shape}" for key, value in arrays.items())
                raise UserError(
                    f"{path.name}: {name} of onnxruntime differs from that of PyTorch by "
                    f"{difference:.2g} ({shapes}), but at most {TOLERANCE:g} is allowed; nothing "
                    "was exported"
                )

            largest = max(largest, difference)
    log.info("%s: differs from PyTorch by at most %.2g", path.name, largest)
    return largest
