"""Number formats of training: Fabric's plugins, without conversions that round exact values."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import DoublePrecision, MixedPrecision, Precision

from mobile_sam.models.device import fastest_precision

log = logging.getLogger(__name__)

_MIN_LOSS_SCALE = 1e-4  # as in fairseq: after 30 steps in a row whose gradients overflow


class Mixed(MixedPrecision):
    """Mixed precision that does not convert inputs, because that would round coordinates."""

    def convert_input(self, data: Any) -> Any:
        return data


class Double(DoublePrecision):
    """Double precision that does not convert outputs, so that losses have 64 bits, too."""

    def convert_output(self, data: Any) -> Any:
        return data


def resolve_precision(setting: str, device: str) -> str:
    """Return the number format that `precision` means on `cuda` or `cpu`."""
    return fastest_precision(torch.device(device)) if setting == "auto" else setting


def precision_plugin(setting: str, device: str) -> Precision:
    """Return Fabric's plugin for `precision` on `cuda` or `cpu`."""
    setting = resolve_precision(setting, device)
    if setting == "32-true":
        return Precision()
    return Double() if setting == "64-true" else Mixed(setting, device)  # type: ignore[arg-type]


def warn_if_slow(setting: str, device: str) -> None:
    """Log a warning if the hardware has no units for the 16 bits of a setting."""
    emulated = device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if setting == "bf16-mixed" and emulated:
        log.warning(
            "precision %s: this GPU emulates bfloat16; %s is faster",
            setting,
            resolve_precision("auto", device),
        )
    slow = setting == "16-mixed" or (setting == "bf16-mixed" and not cpu_has_bfloat16())
    if device == "cpu" and slow:
        log.warning(
            "precision %s: this CPU has no instructions for it (bfloat16 needs AVX512_BF16 or "
            "AMX); it is slower than 32-true",
            setting,
        )


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether bfloat16 is faster than float32 on this CPU; true if unknown."""
    if not cpuinfo.is_file():
        return True
    flags = cpuinfo.read_text(encoding="utf-8")
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) is not None


def loss_scale(fabric: Fabric) -> float:
    """Return the factor of losses; it falls when a step is skipped for infinite gradients."""
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    return 1.0 if scaler is None else scaler.get_scale()


def skips_overflow(fabric: Fabric) -> bool:
    """Return whether a step with an infinite gradient is skipped and the loss scale lowered.

    This is normal in 16-mixed. If the scale is already very small, lowering it does not help.
    """
    scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
    return scaled and loss_scale(fabric) >= _MIN_LOSS_SCALE
