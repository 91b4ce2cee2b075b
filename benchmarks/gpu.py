"""Print the performance of one GPU with this package as a table, in at most eight minutes.

    python benchmarks/gpu.py [--device cuda|cpu]

Without a GPU it runs on the CPU with tiny sizes, in seconds. Each row has an expectation; the exit
status is 1 where one fails. A section that is out of time is left out and says so.
"""

import argparse
import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.extraction.passes import teacher_pass
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.device import fastest_precision, wait_for
from mobile_sam.training.epoch_validation import image_iou
from mobile_sam.training.optim import adamw
from mobile_sam.training.precision import precision_plugin
from mobile_sam.training.setup import new_training_module
from mobile_sam.training.step import TrainingModule
from mobile_sam.training.step_memory import StageMemory, blank_batch, validation_image

Row = tuple[str, str, bool]  # what was done, figures, and whether they are as expected
SECONDS = 450.0
CPU = torch.device("cpu")


class Bench:
    """Settings shared by all sections. device: of the models; side: of images in pixels."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.gpu = device, device.type == "cuda"
        self.side, self.images = (1024, 4) if self.gpu else (64, 2)
        self.name = "vit_t" if self.gpu else "tiny_sam"
        self.teachers = ["vit_t", "vit_b", "vit_h"] if self.gpu else ["tiny_sam"]

    def config(self, **changes: object) -> RunConfig:
        """A run with random weights."""
        given = {"run_name": "gpu", "model_type": self.name, "img_size": self.side}
        return parse_config(given | {"checkpoint": None, "val_images": 1} | changes, "gpu")

    def module(self, config: RunConfig, device: torch.device) -> TrainingModule:
        """The module of a run, equal on all devices."""
        return new_training_module(config, normalise(config)[0], device).to(device).train()

    def step(self, module: TrainingModule, config: RunConfig, device: torch.device) -> Tensor:
        """The loss of a batch, with its gradients; squares of noise are looked for."""
        batch = blank_batch(config, normalise(config)[0], self.images)
        rng = torch.Generator().manual_seed(0)
        noise = torch.randint(256, batch.image.shape, generator=rng, dtype=torch.uint8)
        batch.masks[..., : self.side // 2, : self.side // 3] = True
        batch.points[:, :, 0] = self.side / 4
        with precision_plugin(config.precision, device.type).forward_context():
            loss = module(batch._replace(image=noise).to(device))["loss"].sum()
        loss.backward()
        return loss.detach()

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Of the fastest of some repeats, after one to warm up."""
        times = []
        for _ in range(1 + repeats):
            wait_for(self.device)
            began = time.perf_counter()
            work()
            wait_for(self.device)
            times.append(time.perf_counter() - began)
        return min(times[1:])


def parity(bench: Bench) -> Iterator[Row]:
    """Compare a step on the CPU and on the device, in float32 and in 16 bits."""
    small = Bench(bench.device)
    small.side, small.images, small.name = 128, 2, "tiny_sam"
    exact = small.config(precision="32-true")
    torch.backends.cudnn.allow_tf32 = False
    expected = small.module(exact, CPU)
    loss = small.step(expected, exact, CPU).item()
    fast = fastest_precision(bench.device) if bench.gpu else "bf16-mixed"
    for precision, limit in (("32-true", 1e-3), (fast, 0.2)):
        config = small.config(precision=precision)
        module = small.module(config, bench.device)
        found = small.step(module, config, bench.device).item()
        pairs = zip(module.parameters(), expected.parameters(), strict=True)
        grads = [
            (a.grad.cpu(), b.grad) for a, b in pairs if a.grad is not None and b.grad is not None
        ]
        first, second = (
            torch.cat([g.flatten() for g in side]) for side in zip(*grads, strict=True)
        )
        off = ((first - second).norm() / second.norm()).item()
        figures = f"loss {found:.5f}, {loss:.5f} on the CPU; gradients differ by {off:.1e}"
        yield f"step, {precision}", figures, off < limit and abs(found / loss - 1) < limit
    torch.backends.cudnn.allow_tf32 = True  # as it is by itself


def compiled(bench: Bench) -> Iterator[Row]:
    """Check that torch.compile of the encoder does not change its output."""
    if not bench.gpu:
        yield "compile", "left out on a CPU", True
        return
    encoder = build_sam_model(bench.name, bench.side).image_encoder.to(bench.device).eval()
    images = torch.randn(bench.images, 3, bench.side, bench.side, device=bench.device)
    with torch.no_grad():
        eager, usual = encoder(images), bench.seconds(lambda: encoder(images))
        encoder.compile(dynamic=False)
        found, faster = encoder(images), bench.seconds(lambda: encoder(images))
    off = ((found - eager).norm() / eager.norm()).item()
    yield "compile", f"{usual / faster:.2f}x as fast; differs by {off:.1e}", off < 1e-2


def throughput(bench: Bench) -> Iterator[Row]:
    """Measure training, extraction and validation, compared with the encoder alone."""
    config = bench.config()
    module = bench.module(config, bench.device)
    training = bench.seconds(lambda: bench.step(module, config, bench.device))
    images = torch.randn(bench.images, 3, bench.side, bench.side, device=bench.device)
    encoder = module.student.image_encoder

    def encode() -> None:
        with precision_plugin(config.precision, bench.device.type).forward_context():
            embedding = encoder(images)
        embedding.float().square().mean().backward()

    alone = bench.seconds(encode)
    figures = f"{bench.images / training:.1f} img/s; the encoder alone {bench.images / alone:.1f}"
    yield f"train {bench.name}, {bench.side} px", figures, training < 5 * alone or not bench.gpu
    one = bench.config(objects_per_image=1)
    each = bench.seconds(lambda: bench.step(module, one, bench.device)) * config.objects_per_image
    yield "one pass an object", f"{each / training:.2f}x as long", each > training or not bench.gpu
    for name in bench.teachers:
        teacher = build_sam_model(name, bench.side).image_encoder.to(bench.device).eval()
        whole = bench.seconds(lambda t=teacher: teacher_pass(t, images, ["neck"]))
        yield f"extract {name}", f"{bench.images / whole:.1f} img/s", whole > 0
    image, student = validation_image(config, normalise(config)[0]), module.student.eval()
    with torch.no_grad():
        bare = bench.seconds(lambda: encoder(images[:1]))
        whole = bench.seconds(lambda: image_iou(student, image, bench.device, 32))
    yield (
        "validation",
        f"{1 / whole:.1f} img/s; the encoder alone {1 / bare:.1f}",
        whole < 10 * bare or not bench.gpu,
    )


def memory(bench: Bench) -> Iterator[Row]:
    """Compare the peak memory of a step with its estimate."""
    config = bench.config()
    estimated = StageMemory(config, normalise(config)[0], bench.device.type).peak(bench.images)
    if not bench.gpu:
        yield "memory", f"{estimated / 2**20:.0f} MiB estimated", estimated > 0
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    module = bench.module(config, bench.device)
    optimizer = adamw(module, config.weight_decay, config.encoder_lr_scale, config.layer_decay)
    for _ in range(2):
        bench.step(module, config, bench.device)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    found = torch.cuda.max_memory_allocated(bench.device)
    figures = f"{found / 2**30:.2f} GiB, {estimated / 2**30:.2f} estimated"
    yield "memory", figures, 0.5 < estimated / found < 1.5


def resume(bench: Bench) -> Iterator[Row]:
    """Compare two steps at once with two steps between which the state is saved and loaded."""
    config = bench.config(objects_per_image=1)

    def steps(module: TrainingModule, optimizer: torch.optim.Optimizer) -> None:
        bench.step(module, config, bench.device)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def pair() -> tuple[TrainingModule, torch.optim.Optimizer]:
        module = bench.module(config, bench.device)
        optimizer = adamw(module, 0.05, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-4
        return module, optimizer

    whole, resumed = pair(), pair()
    steps(*whole)
    saved = copy.deepcopy((whole[0].state_dict(), whole[1].state_dict()))
    steps(*whole)
    resumed[0].load_state_dict(saved[0])
    resumed[1].load_state_dict(saved[1])
    steps(*resumed)
    pairs = zip(whole[0].parameters(), resumed[0].parameters(), strict=True)
    off = max((a - b).abs().max().item() for a, b in pairs)
    yield "resume", f"weights differ by {off:.1e}", off < 1e-3 if bench.gpu else off == 0


def two_processes(bench: Bench) -> Iterator[Row]:
    """Two processes train on one device at a time."""
    command = [sys.executable, __file__, "--device", bench.device.type, "--only", "resume"]
    began = time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    codes = [process.wait() for process in running]
    yield "two processes", f"{time.monotonic() - began:.0f} s, exit {codes}", codes == [0, 0]


SECTIONS = (parity, memory, throughput, resume, compiled, two_processes)


def main() -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", help="one section")
    args = parser.parse_args()
    bench, began, good = Bench(torch.device(args.device)), time.monotonic(), True
    where = torch.cuda.get_device_name() if bench.gpu else f"{os.cpu_count()} CPUs, tiny sizes"
    print(f"{where}, torch {torch.__version__}\n\n| what | figures | as expected |\n|---|---|---|")
    for section in SECTIONS:
        if args.only not in (None, section.__name__):
            continue
        if time.monotonic() - began > SECONDS - 60:
            print(f"| {section.__name__} | out of time | no |", flush=True)
            good = False
            continue
        try:
            for what, figures, expected in section(bench):
                print(f"| {what} | {figures} | {'yes' if expected else 'no'} |", flush=True)
                good &= expected
        except torch.OutOfMemoryError:
            print(f"| {section.__name__} | out of memory | no |", flush=True)
            good = False
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
