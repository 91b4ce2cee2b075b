"""Files of weights read safely, and digests of weights; needs no architecture."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobile_sam.config import ConfigError
from mobile_sam.faults import fault

StateDict = dict[str, Tensor]

# What unpickling raises on bytes that are no pickle, says the documentation of `pickle`; and on one
# that calls what is allowed with wrong arguments.
_DAMAGES = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)


def load_file(path: Path) -> Any:
    """The content of a file written by `torch.save`; nothing in it is executed.

    Raises ConfigError for a file that is missing, damaged, or holds more than plain data.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path}: refused, because it holds more than tensors and plain values and loading it "
            f"could run code ({_first_line(error)})"
        ) from None
    except (*_DAMAGES, OSError) as error:
        if fault(error):
            raise
        raise ConfigError(
            f"{path}: not a file of torch.save, or a damaged one ({_first_line(error)}); delete "
            "it, and what has made or fetched it does so again"
        ) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def module_digest(module: nn.Module) -> str:
    """sha256 of all weights and their names, in hexadecimal."""
    digest = hashlib.sha256()
    state: StateDict = module.state_dict()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_state_file(path: Path) -> StateDict:
    """A file of weights. Raises ConfigError for one that is damaged or holds something else."""
    content = load_file(path)
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ConfigError(
            f"{path}: not a weights file; it must hold a state dict of tensors. "
            "The weights of a finished run are in its weights.pt"
        )
    return content
