"""The optimiser, its learning rate as a function of the step, and the frozen parts."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import Freeze
from mobile_sam.config.stage import Stage
from mobile_sam.models.mask_decoder import MaskDecoder
from mobile_sam.models.sam import PARTS
from mobile_sam.training.step import TrainingModule

_ENCODER = "student.image_encoder."


def adamw(
    module: TrainingModule, weight_decay: float, encoder_lr_scale: float, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """Make AdamW over *all* parameters; frozen ones have no gradient and stay untouched.

    So a later stage can unfreeze them. Vectors (biases, norms, tokens) are not decayed.
    Each group carries `lr_scale`, its learning rate relative to the stage's; in the encoder it is
    `encoder_lr_scale` times `layer_decay` for each block above.
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

    names: of all parameters in forward order. A block is `….blocks.N`; in a backbone that has no
    such names it is a module of the body, like `body.layer1`. The neck has none above it, and
    neither has the last block; the patch embedding has all.
    """
    patterns = (r"(.*?\bblocks\.\d+)\.", r"(body\.[^.]+)\.")
    found = [[re.match(pattern, name) for name in names] for pattern in patterns]
    matches = found[0] if any(found[0]) else found[1]
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
    """Give each group its share of the learning rate."""
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

    NaN or infinite where one of its values is.
    """
    parameters = [p for p in module.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    return parameters, torch.stack(torch._foreach_norm(gradients, ord=math.inf))


def drop_gradients_of_no_loss(module: TrainingModule) -> bool:
    """Remove the gradients of parameters without a loss; returns whether any is left.

    Those are all whose gradient is 0: AdamW would decay them, and move them on by their momentum.
    Tokens of masks without a loss are set to 0; they have a gradient because all tokens look at
    each other.
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
    """Restore the rows of matrices that belong to masks without a loss, one row for each mask.

    These are the rows whose gradient is 0; see `drop_gradients_of_no_loss`.
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

    Frozen parts get no gradient and keep their BatchNorm statistics; all others are trained,
    whatever the stage before froze.
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
    """Return the BatchNorm layers of a module."""
    return (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def batchnorm_statistics(config: RunConfig, stage: Stage) -> str:
    """Return whether a stage learns BatchNorm statistics, and of how many images, for the log."""
    ranks, images = config.devices * config.num_nodes, config.batchnorm_images
    if stage.freeze.image_encoder:
        return "frozen, as the image encoder is"
    if config.keeps_batchnorm:
        return f"frozen; they would be of {images} images on each device"
    if config.sync_batchnorm and ranks > 1:
        return f"synchronised, of {images} images on {ranks} devices"
    return f"learned by each device, of {images} images"
