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
from mobile_sam.models.wrappings import describe, list_names
from mobile_sam.system.errors import ConfigError


def load_any(path: Path, img_size: int, model_type: str | None = None) -> Sam:
    """Load the model in a weights file of this package, of MobileSAM or of SAM.

    path: as in `load_state_file`; the file determines the IoU head. img_size: side of the model
    frame in pixels.
    model_type: None detects it.
    Raises ConfigError for weights of no known architecture, or that do not fit `model_type`.
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

    Raises ConfigError with the content of `state` and its differences from the nearest one.
    """
    depth, hidden = iou_head_shape(state, source)
    differing: dict[str, list[str]] = {}
    for name in architectures():
        model = _without_weights(name, depth, hidden)
        expected = {(key, value.shape) for key, value in model.state_dict().items()}
        actual = {(key, value.shape) for key, value in from_original(model, state).items()}
        differing[name] = [original_name(model, key) for key, _ in expected ^ actual]
    nearest = min(differing, key=lambda name: len(differing[name]))
    if differing[nearest]:
        examples = list_names(sorted(set(differing[nearest])))
        raise ConfigError(
            f"{source}: the weights match no architecture in configs/*.yaml; the file holds "
            f"{describe(state)}. The nearest architecture is {nearest!r}, where "
            f"{len(differing[nearest])} tensors differ ({examples}). Add the architecture to "
            "configs/*.yaml, or give its model_type"
        )
    return nearest
