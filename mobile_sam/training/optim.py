"""The optimiser, its learning rate as a function of the step, and what a stage freezes."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from mobile_sam.models.sam import PARTS
from mobile_sam.options import Freeze
from mobile_sam.training.learner import Learner

_ENCODER = "student.image_encoder."


def adamw(
    learner: Learner, weight_decay: float, encoder_lr_scale: float, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW over *all* parameters, frozen ones too: they have no gradient and stay untouched.

    So a later stage can unfreeze them. Vectors (biases, norms, tokens) are not decayed.
    Each group carries `lr_scale`, its learning rate relative to the stage's; in the encoder it is
    `encoder_lr_scale` times `layer_decay` for each block above.
    """
    above = _blocks_above_parameters(learner) if layer_decay < 1 else {}
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    for name, parameter in learner.named_parameters():
        in_encoder = name.startswith(_ENCODER)
        decays = parameter.ndim > 1 and not _is_embedding(name)
        blocks = above.get(name, 0)
        scale = encoder_lr_scale * layer_decay**blocks if in_encoder else 1.0
        group = {"params": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        groups.setdefault((in_encoder, blocks, decays), group)["params"].append(parameter)
    ordered = sorted(groups, reverse=True)
    return torch.optim.AdamW([groups[key] for key in ordered], lr=0.0)


def _blocks_above_parameters(learner: Learner) -> dict[str, int]:
    names = [name for name, _ in learner.named_parameters() if name.startswith(_ENCODER)]
    return dict(zip(names, blocks_above([n.removeprefix(_ENCODER) for n in names]), strict=True))


def blocks_above(names: Sequence[str]) -> list[int]:
    """How many blocks of an image encoder come after each of its parameters.

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


def lr_factor(step: int, steps: int, warmup: float, scheduler: str) -> float:
    """Learning rate of optimiser step `step` of `steps`, relative to its peak.

    warmup: steps of linear warm-up; below 1 it is a share of `steps`.
    scheduler: `cosine`, `linear` (both end at 0) or `constant`.
    """
    warmup_steps = round(warmup * steps) if warmup < 1 else int(warmup)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return SCHEDULERS[scheduler](min(1.0, progress))


SCHEDULERS = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}


def freeze_parts(learner: Learner, freeze: Freeze, freeze_batchnorm: bool) -> None:
    """Put the learner into the training mode of a stage.

    Frozen parts get no gradient and keep their BatchNorm statistics; all others are trained,
    whatever the stage before froze.
    """
    learner.train()
    for part in PARTS:
        frozen = getattr(freeze, part)
        module = getattr(learner.student, part)
        module.requires_grad_(not frozen)
        module.train(not frozen)
    if freeze_batchnorm:
        for module in batchnorms(learner):
            module.eval()


def batchnorms(module: nn.Module) -> Iterator[nn.Module]:
    """The BatchNorm layers within."""
    return (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
