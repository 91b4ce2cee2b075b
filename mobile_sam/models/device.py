"""Where models run that no trainer places."""

import torch

from mobile_sam.config import ConfigError


def default_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def given_device(name: str | None) -> torch.device:
    """The device of the option `--device`; None: the default one.

    Raises ConfigError for one that this machine does not have.
    """
    try:
        return torch.empty(0, device=name or default_device()).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
