"""Print the estimated peak memory of training steps, and that of PyTorch's allocator.

    python benchmarks/estimate.py [CASE ...] [--together]

A case is JSON: `images` of a batch, and settings of a run with random weights. The estimate comes
from fake tensors. What is measured comes from PyTorch's own profiler of its allocator on the CPU;
resident is the growth of the process. Fails where estimate and allocator differ by more than
`--tolerance`. Each case is measured in a process of its own; `--together` takes one for all.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.training.optim import adamw
from mobile_sam.training.step_memory import StageMemory, StageStep

CASES = [f'{{"images": {n}, "img_size": {side}}}' for side, n in ((256, 4), (512, 2), (1024, 1))]
MIB = 2**20


def main() -> int:
    """Print a line for each case; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--tolerance", type=float, default=0.15)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps([measured(*run_of(case)) for case in args.cases]))
        return 0
    worst = 0.0
    print("| case | estimated MiB | allocated MiB | resident MiB | estimated / allocated |")
    print("|---|---|---|---|---|")
    for cases in [args.cases] if args.together else [[case] for case in args.cases]:
        command = [sys.executable, __file__, "--measure", *cases]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        for case, sizes in zip(cases, json.loads(found.splitlines()[-1]), strict=True):
            config, images = run_of(case)
            estimate = StageMemory(config, normalise(config)[0], "cpu").peak(images)
            ratio = estimate / sizes[0]
            worst = max(worst, abs(ratio - 1))
            numbers = " | ".join(f"{size / MIB:.0f}" for size in (estimate, *sizes))
            print(f"| `{case}` | {numbers} | {ratio:.2f} |", flush=True)
    return int(worst > args.tolerance)


def run_of(case: str) -> tuple[RunConfig, int]:
    """The settings of a case, and its number of images."""
    settings = {"run_name": "estimate", "checkpoint": None, "num_epochs": 1} | json.loads(case)
    images = settings.pop("images")
    return parse_config(settings, case), images


def measured(config: RunConfig, images: int) -> tuple[int, int]:
    """Most bytes that PyTorch held at a time in a real step, and growth of the resident size."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        training = StageStep(config, normalise(config)[0])
        optimizer = adamw(
            training.module, config.weight_decay, config.encoder_lr_scale, config.layer_decay
        )
        for _ in range(2):  # the first makes the optimiser's state
            training.step(images, "cpu")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        del training, optimizer
        gc.collect()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = [event["args"] for event in events if event["name"] == "[memory]"]
    held = [args["Total Allocated"] for args in memory]
    return max(held) - (held[0] - memory[0]["Bytes"]), after - before


if __name__ == "__main__":
    sys.exit(main())
