"""The optimiser, its learning rate by step, frozen parts, and averages of weights."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import Freeze
from mobile_sam.config.stage import Stage
from mobile_sam.models.mask_decoder import MaskDecoder
from mobile_sam.models.sam import PARTS
from mobile_sam.training.step import TrainingModule

_ENCODER = "student.image_encoder."

Tensors = tuple[Tensor, ...] | list[Tensor]


def adamw(
    module: TrainingModule, weight_decay: float, encoder_lr_scale: float, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """Return AdamW over *all* parameters, so that a later stage can unfreeze those that are frozen.

    Frozen parameters have no gradient and do not change. Vectors (biases, norms, tokens) are not
    decayed. Each group has `lr_scale`, its learning rate relative to the stage's: 1, or in the
    encoder `encoder_lr_scale * layer_decay**n` with n blocks above.
    """
    above = _blocks_above_parameters(module) if layer_decay < 1 else {}
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        in_encoder = name.startswith(_ENCODER)
        decays = parameter.ndim > 1 and not _is_embedding(name)
        blocks = above.get(name, 0)
        scale = encoder_lr_scale * layer_decay**blocks if in_encoder else 1.0
        group = {"params": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        groups.setdefault((in_encoder, blocks, decays), group)["params"].append(parameter)
    ordered = sorted(groups, reverse=True)
    return torch.optim.AdamW([groups[key] for key in ordered], lr=0.0)


def _blocks_above_parameters(module: TrainingModule) -> dict[str, int]:
    names = [name for name, _ in module.named_parameters() if name.startswith(_ENCODER)]
    return dict(zip(names, blocks_above([n.removeprefix(_ENCODER) for n in names]), strict=True))


def blocks_above(names: Sequence[str]) -> list[int]:
    """Count the blocks of an image encoder that come after each of its parameters.

    names: all parameters in forward order. A block is `….blocks.N`; in a backbone without such
    names it is a module of the body, such as `body.layer1`. No block is above the neck and the last
    block, all blocks are above the patch embedding.
    """
    patterns = (r"(.*?\bblocks\.\d+)\.", r"(body\.[^.]+)\.")
    numbered, modules = ([re.match(pattern, name) for name in names] for pattern in patterns)
    matches = numbered if any(numbered) else modules
    blocks = list(dict.fromkeys(match[1] for match in matches if match))
    passed, above = 0, []
    for match in matches:
        passed = passed if match is None else blocks.index(match[1]) + 1
        above.append(len(blocks) - passed)
    return above


def _is_embedding(name: str) -> bool:
    return any(
        word in name for word in ("embed", "token.", "tokens.", "attention_biases", "rel_pos")
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of each group, scaled by its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]


def lr_factor(step: int, steps: int, warmup_steps: int, scheduler: str) -> float:
    """Return the learning rate of optimiser step `step` of `steps`, relative to its peak.

    warmup_steps: steps of linear warm-up.
    scheduler: `cosine`, `linear` (both end at 0) or `constant`.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return SCHEDULERS[scheduler](min(1.0, progress))


SCHEDULERS = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}


def largest_gradients(module: nn.Module) -> tuple[list[nn.Parameter], Tensor]:
    """Return the parameters with a gradient, and the largest absolute value of each, (parameters,).

    The value is NaN or infinite if any element of the gradient is.
    """
    parameters = [p for p in module.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    return parameters, torch.stack(torch._foreach_norm(gradients, ord=math.inf))


def drop_unused_gradients(module: TrainingModule) -> bool:
    """Remove the gradients of parameters that no loss uses; return whether any gradient is left.

    A gradient of 0 means that no loss uses the parameter; AdamW would still decay it and move it by
    its momentum. Gradients of mask tokens without a loss are set to 0 first: they are not 0,
    because all tokens attend to each other.
    """
    tokens = module.student.mask_decoder.mask_tokens.weight
    if tokens.grad is not None and not module.objective.three_masks:
        tokens.grad[1:] = 0
    parameters, largest = largest_gradients(module)
    for parameter, value in zip(parameters, largest.tolist(), strict=True):
        if value == 0:
            parameter.grad = None
    return bool(largest.any())


@contextmanager
def keep_unreached_rows(decoder: MaskDecoder) -> Iterator[None]:
    """Restore the rows of masks without a loss in matrices that have one row for each mask.

    These are the rows whose gradient is 0; see `drop_unused_gradients`.
    """
    head = cast(nn.Linear, decoder.iou_prediction_head.layers[-1])
    before = [
        (matrix, (matrix.grad.view(len(matrix), -1) != 0).any(1), matrix.detach().clone())
        for matrix in (decoder.mask_tokens.weight, head.weight, head.bias)
        if matrix.grad is not None
    ]
    yield
    with torch.no_grad():
        for matrix, reached, values in before:
            matrix[~reached] = values[~reached]


def freeze_parts(module: TrainingModule, freeze: Freeze, freeze_batchnorm: bool) -> None:
    """Put the module into the training mode of a stage.

    Frozen parts get no gradient and keep their BatchNorm statistics. All others are trained, even
    if the previous stage froze them.
    """
    module.train()
    for name in PARTS:
        frozen = getattr(freeze, name)
        part = getattr(module.student, name)
        part.requires_grad_(not frozen)
        part.train(not frozen)
    if freeze_batchnorm:
        for norm in batchnorms(module):
            norm.eval()


def batchnorms(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the BatchNorm layers of a module."""
    return (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def save_statistics(module: nn.Module) -> Callable[[], None]:
    """Copy the BatchNorm statistics of a module; return a function that restores them."""
    statistics = [buffer for norm in batchnorms(module) for buffer in norm.buffers()]
    values = [buffer.clone() for buffer in statistics]

    @torch.no_grad()
    def restore() -> None:
        for buffer, value in zip(statistics, values, strict=True):
            buffer.copy_(value)

    return restore


def batchnorm_statistics(config: RunConfig, stage: Stage) -> str:
    """Describe for the log how a stage updates BatchNorm statistics, and from how many images."""
    ranks, images = config.devices * config.num_nodes, config.batchnorm_images
    if stage.freeze.image_encoder:
        return "frozen with the image encoder"
    if config.keeps_batchnorm:
        return f"frozen; {images} images per batch on each device"
    if config.sync_batchnorm and ranks > 1:
        return f"synchronised over {ranks} devices; {images} images per batch"
    return f"updated on each device; {images} images per batch"


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of weights, which often generalises better.

    It starts as a copy of `model`; `update_parameters` adds to it. Polyak and Juditsky, SIAM J.
    Control Optim. 30 (1992); the growing decay is that of TensorFlow's ExponentialMovingAverage.

    decay: factor of the average in an update; after n updates it is min(decay, (1 + n) / (10 + n)),
        so that the start weights are soon forgotten. The first update copies the weights.
        Buffers, such as BatchNorm statistics, are always copied.
    """

    @torch.no_grad()
    def add(average: Tensors, current: Tensors, updates: Tensor | int) -> None:
        count = int(updates)
        factor = min(decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(average, current, 1 - factor)

    return AveragedModel(model, multi_avg_fn=add).requires_grad_(False).eval()
