"""Detection of the architecture of weights by the names and shapes of their tensors."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from mobile_sam.config.architectures import architectures
from mobile_sam.models.build import build_sam_model, iou_head_shape
from mobile_sam.models.safe_load import load_state_file
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import from_original, load_state, original_name
from mobile_sam.models.wrappings import describe, some
from mobile_sam.system.errors import ConfigError


def load_any(path: Path, img_size: int, model_type: str | None = None) -> Sam:
    """Return the model in a weights file: of this package, of MobileSAM, of SAM.

    path: as in `load_state_file`. img_size: side of its model frame in pixels.
    model_type: None recognises it.
    Raises ConfigError for weights of no known architecture, or that do not fit the one given.
    """
    state = load_state_file(path)
    depth, hidden = iou_head_shape(state, str(path))
    name = model_type or detect_model_type(state, str(path))
    model = build_sam_model(name, img_size, depth, hidden)
    load_state(model, state, str(path))
    return model


@lru_cache(maxsize=64)
def _without_weights(name: str, depth: int, hidden: int) -> Sam:
    """Build a model with names and shapes only; the largest takes a second."""
    with torch.device("meta"):
        return build_sam_model(name, 64, depth, hidden)


def detect_model_type(state: dict[str, Tensor], source: str) -> str:
    """Return the `model_type` whose tensors have exactly the names and shapes of `state`.

    Raises ConfigError that says what `state` holds, and how far the nearest one is off.
    """
    depth, hidden = iou_head_shape(state, source)
    differing: dict[str, list[str]] = {}
    for name in architectures():
        model = _without_weights(name, depth, hidden)
        wanted = {(key, value.shape) for key, value in model.state_dict().items()}
        found = {(key, value.shape) for key, value in from_original(model, state).items()}
        differing[name] = [original_name(model, key) for key, _ in wanted ^ found]
    nearest = min(differing, key=lambda name: len(differing[name]))
    if differing[nearest]:
        examples = some(sorted(set(differing[nearest])))
        raise ConfigError(
            f"{source}: weights of no architecture of configs/*.yaml; it holds {describe(state)}. "
            f"The nearest is {nearest!r}, of which {len(differing[nearest])} tensors differ "
            f"({examples}). Add theirs to configs/*.yaml, or name the model_type"
        )
    return nearest
