"""The architecture of weights, read off the names and shapes of their tensors."""

from pathlib import Path

import torch
from torch import Tensor

from mobile_sam.architectures import architectures
from mobile_sam.config import ConfigError
from mobile_sam.models.build import build_sam_model, iou_head_shape
from mobile_sam.models.sam import Sam
from mobile_sam.models.state_files import load_state_file
from mobile_sam.models.weights import from_original, load_state


def load_any(path: Path, img_size: int, model_type: str | None = None) -> Sam:
    """The model in a weights file with original names: of this package, of MobileSAM, of SAM.

    img_size: side of its model frame in pixels. model_type: None recognises it.
    Raises ConfigError for weights of no known architecture, or that do not fit the one given.
    """
    state = load_state_file(path)
    depth, hidden = iou_head_shape(state)
    name = model_type or recognised(state, str(path))
    model = build_sam_model(name, img_size, depth, hidden)
    load_state(model, state, str(path))
    return model


def recognised(state: dict[str, Tensor], source: str) -> str:
    """The `model_type` whose tensors have exactly the names and shapes of `state`.

    Raises ConfigError that says how far the nearest one is off.
    """
    depth, hidden = iou_head_shape(state)
    differing: dict[str, int] = {}
    for name in architectures():
        with torch.device("meta"):
            model = build_sam_model(name, 64, depth, hidden)
        wanted = {(key, value.shape) for key, value in model.state_dict().items()}
        found = {(key, value.shape) for key, value in from_original(model, state).items()}
        differing[name] = len(wanted ^ found)
    nearest = min(differing, key=lambda name: differing[name])
    if differing[nearest]:
        raise ConfigError(
            f"{source}: weights of no architecture of configs/*.yaml; the nearest is {nearest!r}, "
            f"of which {differing[nearest]} tensors differ. Add theirs to configs/*.yaml, or name "
            "the model_type"
        )
    return nearest
