"""Detection of the architecture of weights by the names and shapes of their tensors."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from mobile_sam.config.architectures import architectures, feature_width
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
    # Building the likely architecture and comparing with it takes less time than detection.
    name = model_type or next(iter(_likely(state)), None)
    model = build_sam_model(name, img_size, depth, hidden) if name else None
    if model is None or (not model_type and _differing(model, state)):
        name = detect_model_type(state, str(path))
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
    for name in dict.fromkeys([*_likely(state), *architectures()]):
        differing[name] = _differing(_without_weights(name, depth, hidden), state)
        if not differing[name]:
            return name
    nearest = min(architectures(), key=lambda name: len(differing[name]))
    examples = list_names(sorted(set(differing[nearest])))
    raise ConfigError(
        f"{source}: the weights match no architecture in configs/*.yaml; the file holds "
        f"{describe(state)}. The nearest architecture is {nearest!r}, where "
        f"{len(differing[nearest])} tensors differ ({examples}). Add the architecture to "
        "configs/*.yaml, or give its model_type"
    )


def _differing(model: Sam, state: dict[str, Tensor]) -> list[str]:
    """Return the original names of tensors that only one of them has, or that differ in shape."""
    expected = {(key, value.shape) for key, value in model.state_dict().items()}
    actual = {(key, value.shape) for key, value in from_original(model, state).items()}
    return [original_name(model, key) for key, _ in expected ^ actual]


def _likely(state: dict[str, Tensor]) -> list[str]:
    """Return the architectures with the encoder's width and gates that `state` has."""
    widths = {value.shape[1:2] for key, value in state.items() if key.endswith("neck.0.weight")}
    gated = any(".se." in key for key in state)
    return [
        name
        for name, settings in architectures().items()
        if (feature_width(settings["image_encoder"]),) in widths
        and settings["image_encoder"].get("squeeze_excite", False) == gated
    ]
