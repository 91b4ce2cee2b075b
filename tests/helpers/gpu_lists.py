"""The list of GPUs that `nvidia-smi` prints."""

from collections.abc import Callable

Lists = Callable[..., None]  # takes the lines of `nvidia-smi -L`


def gpu_line(number: int, uuid: str) -> str:
    """A line of `nvidia-smi -L`."""
    return f"GPU {number}: NVIDIA A100-SXM4-40GB (UUID: {uuid})"
