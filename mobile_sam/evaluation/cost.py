"""Cost of a model on this machine: parameters, FLOPs, latency and memory."""

import logging
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobile_sam.config.run import RunConfig
from mobile_sam.config.teachers import named_teachers
from mobile_sam.models.build import build_sam_model, iou_head_shape
from mobile_sam.models.detect_architecture import detect_model_type
from mobile_sam.models.device import default_device, wait_for
from mobile_sam.models.prompt_encoder import BOTTOM_RIGHT, TOP_LEFT
from mobile_sam.models.safe_load import load_state_file
from mobile_sam.models.sam import Sam
from mobile_sam.system.atomic_files import atomic_write
from mobile_sam.system.errors import UserError

log = logging.getLogger(__name__)

_DIGITS = 3
_WARM_UP = 2  # passes that are not timed


@dataclass(frozen=True)
class ModelSpec:
    """Specification of a model, which determines its cost. Calling it builds the model.

    model_type: a name of `configs/*.yaml`; img_size: side of the model frame in pixels.
    """

    model_type: str
    img_size: int
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256

    def __call__(self) -> Sam:
        return build_sam_model(
            self.model_type, self.img_size, self.iou_head_depth, self.iou_head_hidden_dim
        )


_SMALL = ModelSpec("tiny_sam", 64)


@dataclass(frozen=True)
class Cost:
    """Cost of a model in float32, for one image and one box prompt.

    gflops_*: 10^9 floating-point operations, two for each multiply-accumulate (see `count_flops`).
    *_ms: milliseconds, median; low and high are the 10th and 90th percentile.
    memory_mib: peak memory of weights and intermediate results together.
    device, threads, torch: environment of the measurement. img_size: side of the model frame in
    pixels.
    """

    parameters: int
    image_encoder_parameters: int
    gflops_encoder: float
    gflops_decoder: float
    encoder_ms: float
    encoder_ms_low: float
    encoder_ms_high: float
    decoder_ms: float
    decoder_ms_low: float
    decoder_ms_high: float
    memory_mib: float
    device: str
    threads: int
    torch: str
    img_size: int


class ForwardPasses(NamedTuple):
    """Forward passes of a prediction.

    encode: the image encoder on one image, (1, 3, S, S).
    decode: prompt encoder and mask decoder on one box and the embedding of that image, to one mask
        of (S/4, S/4). It is not upscaled, because that cost depends on the size of the original.
    """

    encode: Callable[[], Tensor]
    decode: Callable[[], Tensor]


class Milliseconds(NamedTuple):
    """Latency of repeated work: 10th percentile, median and 90th percentile."""

    low: float
    median: float
    high: float


@torch.no_grad()
def forward_passes(model: Sam) -> ForwardPasses:
    """Return the passes of a model on noise and a central box, on the device of the model."""
    device, side = model.mask_decoder.iou_token.weight.device, model.img_size
    image = torch.randn(1, 3, side, side, device=device)
    corners = torch.tensor([[[0.25, 0.25], [0.75, 0.75]]], device=device) * side  # (1, 2, 2) xy
    labels = torch.tensor([[TOP_LEFT, BOTTOM_RIGHT]], device=device)
    embedding = model.image_encoder(image)  # (1, C, S/16, S/16)
    return ForwardPasses(
        encode=lambda: model.image_encoder(image),
        decode=lambda: model.decode(embedding, corners, labels)[0],
    )


@torch.no_grad()
def latency(work: Callable[[], Tensor], repeats: int, device: torch.device) -> Milliseconds:
    """Measure the latency of `work` over `repeats` runs after warm-up.

    device: the device of `work`; a GPU is synchronised.
    """
    for _ in range(_WARM_UP):
        work()
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return Milliseconds(*(float(ms) for ms in np.percentile(seconds, [10, 50, 90]) * 1e3))


@torch.no_grad()
def count_flops(work: Callable[[], Tensor]) -> int:
    """Count the FLOPs of matrix products and convolutions: 2 for each multiply-accumulate.

    Papers often give multiply-accumulates (MACs), half as many. Biases, norms, activations,
    softmax and interpolation are not counted. Parameters must not need gradients. On a CPU the
    fused attention kernel is not counted (torch 2.14): count on the meta device.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def write_costs(
    models: Mapping[str, ModelSpec],
    target: Path,
    repeats: int,
    device: torch.device | None = None,
) -> None:
    """Write a CSV with the cost of each model: checkpoint, architecture, then the fields of `Cost`.

    Weights are random, because they do not affect cost. Equal specifications are measured once.
    device: as in `measure_cost`.
    """
    import pandas as pd  # here, so that a validation starts faster

    costs: dict[ModelSpec, Cost] = {}
    rows = []
    for name, spec in models.items():
        if spec not in costs:
            costs[spec] = measure_cost(spec, repeats, device)
        cost = costs[spec]
        rows.append({"checkpoint": name, "architecture": spec.model_type, **asdict(cost)})
        log.info(
            "%s: %.1f M parameters  encoder %.3g GFLOPs, %.1f ms  decoder %.3g GFLOPs, %.1f ms"
            "  %.0f MiB",
            *(name, cost.parameters / 1e6, cost.gflops_encoder, cost.encoder_ms),
            *(cost.gflops_decoder, cost.decoder_ms, cost.memory_mib),
        )
    with atomic_write(target) as unfinished:
        pd.DataFrame(rows).to_csv(unfinished, index=False)


def model_specs(config: RunConfig) -> dict[str, ModelSpec]:
    """Return the models of a run: the student as `start`, for all stages, and the teachers by name.

    The IoU head of a teacher is assumed to be SAM's own.
    """
    student = ModelSpec(
        config.model_type, config.img_size, config.iou_head_depth, config.iou_head_hidden_dim
    )
    teachers = {
        name: ModelSpec(teacher.teacher_model_type or "", config.img_size)
        for name, teacher in named_teachers(config).items()
    }
    return {"start": student, **teachers}


def read_model_spec(weights: Path, img_size: int, model_type: str | None = None) -> ModelSpec:
    """Read the specification from a weights file; detects the architecture unless it is given."""
    state = load_state_file(weights)
    name = model_type or detect_model_type(state, str(weights))
    return ModelSpec(name, img_size, *iou_head_shape(state, str(weights)))


def measure_cost(
    build: Callable[[], Sam], repeats: int, device: torch.device | None = None
) -> Cost:
    """Measure the cost of a model in a separate process with as many threads as this one.

    build: a `ModelSpec` or another picklable function.
    repeats: timed runs of each pass, after two warm-up runs.
    device: None uses the first GPU if there is one.
    Raises UserError if that process is killed, which usually means that memory ran out.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; give at least one")
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(_measure, build, repeats, threads, device).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"the cost of {build} cannot be measured: its process was killed, usually "
                "because memory ran out; free memory, or set benchmark_repeats to 0"
            ) from error


def _measure(
    build: Callable[[], Sam], repeats: int, threads: int, device: torch.device | None
) -> Cost:
    torch.set_num_threads(threads)
    device = device or default_device()
    # The first model loads libraries and kernels, which are not part of the measured cost.
    _ready(_SMALL, device)
    reset_peak_memory(device)
    before = peak_memory(device)
    model, (encode, decode) = _ready(build, device)
    reset_peak_memory(device)  # reading weights takes more memory than the model
    encoder = latency(encode, repeats, device)
    decoder = latency(decode, repeats, device)
    memory = peak_memory(device) - before
    on_meta = forward_passes(model.to("meta"))  # the same shapes without computation
    return Cost(
        parameters=count_parameters(model),
        image_encoder_parameters=count_parameters(model.image_encoder),
        gflops_encoder=count_flops(on_meta.encode) / 1e9,
        gflops_decoder=count_flops(on_meta.decode) / 1e9,
        encoder_ms=round(encoder.median, _DIGITS),
        encoder_ms_low=round(encoder.low, _DIGITS),
        encoder_ms_high=round(encoder.high, _DIGITS),
        decoder_ms=round(decoder.median, _DIGITS),
        decoder_ms_low=round(decoder.low, _DIGITS),
        decoder_ms_high=round(decoder.high, _DIGITS),
        memory_mib=round(memory / 2**20, 1),
        device=device_name(device),
        threads=threads,
        torch=torch.__version__,
        img_size=model.img_size,
    )


def _ready(build: Callable[[], Sam], device: torch.device) -> tuple[Sam, ForwardPasses]:
    model = build().eval().requires_grad_(False).to(device)
    return model, forward_passes(model)


def count_parameters(part: nn.Module) -> int:
    """Return the number of parameters including frozen ones, without buffers."""
    return sum(parameter.numel() for parameter in part.parameters())


_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CPUS = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """Return the model name of the GPU or the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def reset_peak_memory(device: torch.device) -> None:
    """Reset `peak_memory` to current usage; without effect for a CPU outside Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        # proc_pid_clear_refs(5): a 5 resets the peak resident size.
        _CLEAR.write_text("5", encoding="utf-8")


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes of tensors on a GPU, or of the resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        # Not `ru_maxrss`: on Linux a process inherits it from its parent.
        lines = dict(
            line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines()
        )
        return int(lines["VmHWM"].removesuffix("kB")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_name() -> str:
    if _CPUS.exists():
        for line in _CPUS.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
