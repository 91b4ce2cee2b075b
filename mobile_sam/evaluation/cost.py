"""What a model costs: parameters, arithmetic, time and memory, on the machine at hand."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from mobile_sam.config import RunConfig, UserError
from mobile_sam.evaluation.machine import device_name, forget_peak, peak_memory
from mobile_sam.evaluation.passes import Passes, count_flops, latency, passes
from mobile_sam.files import whole
from mobile_sam.models.build import build_sam_model, iou_head_shape
from mobile_sam.models.device import default_device
from mobile_sam.models.recognise import recognised
from mobile_sam.models.sam import Sam
from mobile_sam.models.state_files import load_state_file
from mobile_sam.teachers import named_teachers

log = logging.getLogger(__name__)

_DIGITS = 3


@dataclass(frozen=True)
class Blueprint:
    """What a model is built of: its cost depends on nothing else. A call builds it.

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


_SMALL = Blueprint("tiny_sam", 64)


@dataclass(frozen=True)
class Cost:
    """The cost of a model in float32, for one image and one box prompt on it.

    gflops_*: 10^9 floating-point operations, two for each multiply-accumulate (see `count_flops`).
    *_ms: milliseconds, the median; low and high are the 10th and 90th percentile.
    memory_mib: the most that weights and intermediate results take together.
    device, threads, torch: what it was measured on. img_size: side of the model frame in pixels.
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


def write_costs(models: Mapping[str, Blueprint], target: Path, repeats: int) -> None:
    """Write a CSV with the cost of each model by its name: checkpoint, architecture, then `Cost`.

    Weights are random: they change nothing. Equal blueprints are measured once.
    """
    costs: dict[Blueprint, Cost] = {}
    rows = []
    for name, blueprint in models.items():
        if blueprint not in costs:
            costs[blueprint] = measure_cost(blueprint, repeats)
        cost = costs[blueprint]
        rows.append({"checkpoint": name, "architecture": blueprint.model_type, **asdict(cost)})
        log.info(
            "%s: %.1f M parameters  encoder %.3g GFLOPs, %.1f ms  decoder %.3g GFLOPs, %.1f ms"
            "  %.0f MiB",
            *(name, cost.parameters / 1e6, cost.gflops_encoder, cost.encoder_ms),
            *(cost.gflops_decoder, cost.decoder_ms, cost.memory_mib),
        )
    with whole(target) as unfinished:
        pd.DataFrame(rows).to_csv(unfinished, index=False)


def blueprints(config: RunConfig) -> dict[str, Blueprint]:
    """Of a run: the student as `start`, which stands for all stages, and the teachers by name.

    The IoU head of a teacher is taken to be SAM's own.
    """
    student = Blueprint(
        config.model_type, config.img_size, config.iou_head_depth, config.iou_head_hidden_dim
    )
    teachers = {
        name: Blueprint(teacher.teacher_model_type or "", config.img_size)
        for name, teacher in named_teachers(config).items()
    }
    return {"start": student, **teachers}


def blueprint_of(weights: Path, img_size: int, model_type: str | None = None) -> Blueprint:
    """Of a file of weights; its architecture is recognised unless it is given."""
    state = load_state_file(weights)
    name = model_type or recognised(state, str(weights))
    return Blueprint(name, img_size, *iou_head_shape(state))


def measure_cost(build: Callable[[], Sam], repeats: int) -> Cost:
    """The cost of a model, measured in a process of its own with as many threads as this one.

    build: a `Blueprint`, or another function that can be pickled.
    repeats: timed passes of each half, after two that are not.
    Raises UserError when that process is killed, mostly for memory.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; a cost needs at least one")
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(_measure, build, repeats, threads).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"the cost of {build} cannot be measured: its process was killed, most often "
                "because memory ran out; free some, or set cost_repeats to 0"
            ) from error


def _measure(build: Callable[[], Sam], repeats: int, threads: int) -> Cost:
    torch.set_num_threads(threads)
    device = default_device()
    # What the first model loads (libraries, kernels) is no cost of the one that is measured.
    _ready(_SMALL, device)
    forget_peak(device)
    before = peak_memory(device)
    model, (encode, decode) = _ready(build, device)
    forget_peak(device)  # reading a file of weights takes more than the model does
    encoder = latency(encode, repeats, device)
    decoder = latency(decode, repeats, device)
    memory = peak_memory(device) - before
    on_meta = passes(model.to("meta"))  # the same shapes, and nothing is computed
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


def _ready(build: Callable[[], Sam], device: torch.device) -> tuple[Sam, Passes]:
    model = build().eval().requires_grad_(False).to(device)
    return model, passes(model)


def count_parameters(part: nn.Module) -> int:
    """All of them, frozen ones too; buffers are none."""
    return sum(parameter.numel() for parameter in part.parameters())
