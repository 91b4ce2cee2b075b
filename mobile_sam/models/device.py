"""Devices of models outside of training, and their fastest number formats."""

from typing import Literal

import torch

from mobile_sam.models.sam import Sam
from mobile_sam.system.errors import ConfigError


def default_device() -> torch.device:
    """Return the first GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def given_device(name: str | None) -> torch.device:
    """Return the device of the option `--device`; the default device for None.

    Raises ConfigError for one that this machine does not have.
    """
    try:
        return torch.empty(0, device=name or default_device()).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error


def fastest_precision(device: torch.device) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """Return the fastest number format that the hardware of a device has units for.

    bfloat16 from compute capability 8.0 on. Capability 7.x (V100, T4) emulates it slowly and has
    units for float16. Older GPUs are mostly slower in 16 bits than in 32, as are CPUs.
    """
    if device.type != "cuda":
        return "32-true"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16-mixed"
    return "16-mixed" if torch.cuda.get_device_capability(device) >= (7, 0) else "32-true"


def move_to_device(model: Sam, device: torch.device) -> Sam:
    """Move a model to a device, unless it is there; fake tensors cannot be moved."""
    return model if model.device == device else model.to(device)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
