"""Number formats of training: Fabric's, without conversions that would round what must be exact."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import DoublePrecision, MixedPrecision, Precision

log = logging.getLogger(__name__)


class Mixed(MixedPrecision):
    """Autocast chooses what is computed in 16 bits; pixels of points would be rounded."""

    def convert_input(self, data: Any) -> Any:
        return data


class Double(DoublePrecision):
    """All in 64 bits, the losses too."""

    def convert_output(self, data: Any) -> Any:
        return data


def precision_plugin(setting: str, device: str) -> Precision:
    """The format that the key `precision` asks for, on `cuda` or `cpu`."""
    if setting == "auto":
        in_16_bits = device == "cuda" and torch.cuda.is_bf16_supported()
        setting = "bf16-mixed" if in_16_bits else "32-true"
    if setting == "32-true":
        return Precision()
    return Double() if setting == "64-true" else Mixed(setting, device)  # type: ignore[arg-type]


def warn_if_slow(setting: str, device: str) -> None:
    """Warn of 16 bits on a CPU without instructions for them; PyTorch has none for float16."""
    slow = setting == "16-mixed" or (setting == "bf16-mixed" and not cpu_has_bfloat16())
    if device == "cpu" and slow:
        log.warning(
            "precision %s: this CPU has no instructions for it (bfloat16 needs AVX512_BF16 or "
            "AMX), so that it is slower than 32-true",
            setting,
        )


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bfloat16 is faster than float32 on this CPU; true where nothing can be said."""
    if not cpuinfo.is_file():
        return True
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", cpuinfo.read_text()) is not None


def loss_scale(fabric: Fabric) -> float:
    """What losses are multiplied with; it falls when a step was skipped for infinite gradients."""
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    return 1.0 if scaler is None else scaler.get_scale()
