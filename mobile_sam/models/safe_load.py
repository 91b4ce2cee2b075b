"""Safe reading of weights files, and digests of weights, without an architecture."""

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from mobile_sam.models.file_kinds import check_kind, is_cut_off, is_safetensors
from mobile_sam.models.wrappings import StateDict, plain_state, printable
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.machine_errors import machine_fault, naming

# Errors of unpickling for bytes that are not a pickle, according to the documentation of `pickle`,
# and for a pickle that calls allowed functions with wrong arguments.
_DAMAGES = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)
_MAKE_AGAIN = "delete it and run the command that made or downloaded it again"
_COPY_AGAIN = "copy or download it again"
# The class that torch names when it refuses a pickle.
_CLASS = re.compile(r"GLOBAL ([\w.]+)")
_REASON = re.compile(r"WeightsUnpickler error: (.+)")
# Messages of torch for bytes that are not a pickle.
_NO_PICKLE = re.compile(r"Unsupported operand|String is too long|Invalid magic number")


def load_file(path: Path) -> Any:
    """Return the content of a file that this package wrote by `torch.save`, without executing it.

    Raises ConfigError for a file that is missing, damaged, or holds more than plain data.
    """
    return _content(path, _MAKE_AGAIN)


def load_state_file(path: Path) -> StateDict:
    """Read weights of any origin, under the names of the original MobileSAM or SAM code.

    path: a file of `torch.save` or of safetensors. `wrappings.plain_state` removes wrappers and
    prefixes, converts Hugging Face's names, and logs what it did.
    Raises ConfigError, with the content of the file, for one that is damaged or not weights.
    """
    check_kind(path)
    content = _safetensors(path) if is_safetensors(path) else _content(path, _COPY_AGAIN)
    return plain_state(content, path)


def module_digest(module: nn.Module) -> str:
    """Return the sha256 of all weights and their names, in hexadecimal."""
    digest = hashlib.sha256()
    state: StateDict = module.state_dict()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _content(path: Path, remedy: str) -> Any:
    try:
        with naming(path), path.open("rb") as file:  # given a path, torch trusts its suffix
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory; a file is needed") from None
    except pickle.UnpicklingError as error:
        if not _NO_PICKLE.search(str(error)):
            raise ConfigError(f"{path}: {_refusal(error)}") from None
        raise ConfigError(_damaged(path, "not a pickle", remedy)) from None
    except (*_DAMAGES, OSError) as error:
        if machine_fault(error):
            raise
        reason = "its end is missing" if is_cut_off(path) else _first_sentence(error)
        raise ConfigError(_damaged(path, reason, remedy)) from None


def _damaged(path: Path, reason: str, remedy: str) -> str:
    return f"{path}: not a file of torch.save, or a damaged one ({reason}); {remedy}"


def _refusal(error: Exception) -> str:
    """Describe why `torch.load` refused a file; its own message advises to skip the check."""
    class_name, reason = _CLASS.search(str(error)), _REASON.search(str(error))
    detail = "unknown"
    if class_name:
        detail = class_name[1]
    elif reason:
        detail = printable(reason[1].split(". ")[0])
    return (
        f"refused, because it holds Python objects besides tensors ({detail}), and loading them "
        "could run code. Save only the tensors in the environment that wrote it, by torch.save(x, "
        "'weights.pt'), where x is model.state_dict() or the dict entry that holds it"
    )


def _safetensors(path: Path) -> StateDict:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (SafetensorError, *_DAMAGES, OSError) as error:
        if machine_fault(error):
            raise
        reason = _first_sentence(error)
        raise ConfigError(
            f"{path}: not a file of safetensors, or a damaged one ({reason}); {_COPY_AGAIN}"
        ) from None


def _first_sentence(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "").split(". ")[0].rstrip(".")
    if "weights_only" in line:  # advice of torch
        return "of an unknown format"
    return printable(line) if line else type(error).__name__
