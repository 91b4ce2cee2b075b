"""The optimiser, its learning rate as a function of the step, and what a stage freezes."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from mobile_sam.models.sam import PARTS
from mobile_sam.options import Freeze
from mobile_sam.training.learner import Learner


def adamw(learner: Learner, weight_decay: float, encoder_lr_scale: float) -> torch.optim.AdamW:
    """AdamW over *all* parameters, frozen ones too: they have no gradient and stay untouched.

    So a later stage can unfreeze them. Vectors (biases, norms, tokens) are not decayed.
    Each group carries `lr_scale`, its learning rate relative to the stage's.
    """
    groups = []
    for encoder in (True, False):
        for decay in (True, False):
            parameters = [
                parameter
                for name, parameter in learner.named_parameters()
                if name.startswith("student.image_encoder.") == encoder
                and (parameter.ndim > 1 and not _is_embedding(name)) == decay
            ]
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "weight_decay": weight_decay if decay else 0.0,
                        "lr_scale": encoder_lr_scale if encoder else 1.0,
                    }
                )
    return torch.optim.AdamW(groups, lr=0.0)


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
        for module in _batchnorms(learner):
            module.eval()


def _batchnorms(module: nn.Module) -> Iterator[nn.Module]:
    return (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def clip_gradients(parameters: Iterable[nn.Parameter], largest_norm: float) -> None:
    """Scale gradients down to a total norm of `largest_norm`; 0 leaves them as they are."""
    if largest_norm > 0:
        torch.nn.utils.clip_grad_norm_(parameters, largest_norm)
