"""Compilation of the student's image encoder, with a measurement of the speed-up."""

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mobile_sam.models.sam import Sam
from mobile_sam.system.errors import ConfigError
from mobile_sam.training.activation_checkpointing import keep_statistics

log = logging.getLogger(__name__)

_REPEATS = 3


def compile_encoder(student: Sam, images: int, fabric: Fabric) -> None:
    """Compile the encoder's forward and backward pass; the keys of its state dict do not change.

    Logs how long both take for a batch of `images`, compiled and eager, and warns if compiled is
    slower. Raises ConfigError if there is no compiler.
    """
    check_compiler(fabric.device.type)
    encoder = student.image_encoder
    shape = (images, 3, student.img_size, student.img_size)
    batch = torch.zeros(shape, dtype=student.dtype, device=fabric.device)
    with _restored(encoder):
        eager = _seconds(encoder, batch, fabric)
        # Compile each shape on its own, so that results do not depend on earlier shapes.
        encoder.compile(dynamic=False)
        began = time.monotonic()
        try:
            compiled = _seconds(encoder, batch, fabric)
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f"compile: true, but the encoder cannot be compiled here "
                f"({str(error).strip().splitlines()[0]}); set compile to false"
            ) from error
    log.info(
        "compile: forward and backward of %d images take %.3f s, eager %.3f s; compiled in %.0f s",
        images,
        compiled,
        eager,
        time.monotonic() - began,
    )
    if compiled > eager:
        log.warning("compile: true makes the encoder slower here; set it to false")


def check_compiler(device: str) -> None:
    """Raise ConfigError if torch.compile lacks Triton on a GPU, or a C++ compiler on a CPU."""
    if device == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ConfigError(
                "compile: true needs Triton on a GPU, but it is not installed; install triton, or "
                "set compile to false"
            )
        return
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"compile: true needs a C++ compiler, but there is no {compiler!r}; install one, name "
            "another in the environment variable CXX, or set compile to false"
        )


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Restore gradients and BatchNorm statistics after a measurement."""
    with keep_statistics(module):
        try:
            yield
        finally:
            module.zero_grad(set_to_none=True)


def _seconds(encoder: nn.Module, images: Tensor, fabric: Fabric) -> float:
    """Return the seconds of the fastest of a few forward and backward passes, after a warm-up."""
    times = []
    for _ in range(1 + _REPEATS):
        began = time.monotonic()
        with fabric.autocast():
            embedding = encoder(images)
        embedding.float().square().mean().backward()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize(fabric.device)
        times.append(time.monotonic() - began)
    return min(times[1:])
