"""Print the speed of a bundle's image encoder by precision and runtime, and of the original.

    make oracle
    python benchmarks/runtimes.py --images DIRECTORY [--weights FILE] [--threads 2] [--rounds 5]

`vit_t` at 1024 px on the CPU, one image at a time. Each way is a process of its own with the given
number of threads, and they are timed in turns; a ratio is the median of those of the rounds. The
first image is answered for a few boxes: IoU is with the masks of the original code. Without
--weights these are random: times are right, but masks of random weights are noise, and their IoU
says little of int8. The images calibrate int8.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
# Corners of boxes in shares of the image.
BOXES = [(0.1, 0.1, 0.5, 0.6), (0.4, 0.3, 0.9, 0.9), (0.05, 0.5, 0.4, 0.95), (0.3, 0.05, 0.7, 0.5)]
ORIGINAL = "original"
WAYS = {
    ORIGINAL: "PyTorch, original code",
    "onnxruntime float32": "",
    "onnxruntime int8": "",
    "openvino float32": "",
    "openvino float16": "16 bits where the CPU has them",
    "openvino int8": "",
}


def main() -> None:
    """Export, start a process for each way, time them in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--oracle", type=Path, default=ROOT / ".venv" / "oracle")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calibration-images", type=int, default=8)
    parser.add_argument("--bundle", type=Path, help="write it there, or use the one that is there")
    args = parser.parse_args()
    if not (args.oracle / "mobile_sam").is_dir():
        sys.exit(f"{args.oracle} does not exist; run `make oracle` or name --oracle")
    with tempfile.TemporaryDirectory() as place:
        bundle = prepare(args, Path(place))
        workers = [Worker.start(way, bundle, args.threads, args.oracle) for way in WAYS]
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for worker in workers:
                seconds[worker.way].append(worker.ask("time"))
        masks = {worker.way: np.load(worker.ask("masks"), allow_pickle=False) for worker in workers}
        for worker in workers:
            worker.end()
    report(args, seconds, masks)


def report(
    args: argparse.Namespace, seconds: dict[str, list[float]], masks: dict[str, np.ndarray]
) -> None:
    """Print a row for each way, beside the original code."""
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, {args.threads} threads; vit_t, 1024 px;",
        end="",
    )
    print(" random weights" if args.weights is None else f" {args.weights}")
    print(f"{'':<22}{'seconds':>9}{'faster':>9}{'mean IoU':>10}{'lowest':>9}")
    for way, note in WAYS.items():
        pairs = zip(seconds[ORIGINAL], seconds[way], strict=True)
        ratio = statistics.median(before / after for before, after in pairs)
        equal = [iou(a, b) for a, b in zip(masks[way], masks[ORIGINAL], strict=True)]
        print(f"{way:<22}{statistics.median(seconds[way]):>9.3f}{ratio:>8.2f}x", end="")
        print(f"{statistics.mean(equal):>10.4f}{min(equal):>9.4f}  {note}")


def prepare(args: argparse.Namespace, place: Path) -> Path:
    """The bundle, with the first image and the original state beside it."""
    import torch

    from mobile_sam.data.images import read_image
    from mobile_sam.export.bundle import write_bundle
    from mobile_sam.export.calibration import images_from_directory
    from mobile_sam.models.build import build_sam_model
    from mobile_sam.models.detect_architecture import load_any
    from mobile_sam.models.weights import to_original

    model = build_sam_model("vit_t", 1024) if args.weights is None else load_any(args.weights, 1024)
    model.eval().requires_grad_(False)
    bundle = args.bundle or place / "bundle"
    examples = images_from_directory(args.images, args.calibration_images)
    if not (bundle / "bundle.json").is_file():
        write_bundle(model, bundle, {"weights": str(args.weights)}, ["float16", "int8"], examples)
    torch.save(to_original(model), place / "state.pt")
    np.save(place / "image.npy", read_image(examples.evaluation[0].path))
    (place / "task.json").write_text(json.dumps({"bundle": str(bundle.resolve())}))
    return place


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    """Return the IoU of two masks; 1 if both are empty."""
    union = np.count_nonzero(mask | other)
    return np.count_nonzero(mask & other) / union if union else 1.0


@dataclass(frozen=True)
class Worker:
    """A process that times one way when it is asked to."""

    way: str
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, way: str, place: Path, threads: int, oracle: Path) -> "Worker":
        """place: as `prepare` left it."""
        path = oracle if way == ORIGINAL else ROOT
        return cls(
            way,
            subprocess.Popen(
                [sys.executable, __file__, "--worker", way, str(place), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": str(threads)},
            ),
        )

    def ask(self, question: str) -> Any:
        """`time`: seconds of a pass. `masks`: a file of the masks (P, H, W) of BOXES."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the process has no pipes")
        print(question, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.way}: its process ended with {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """Wait until it has ended."""
        self.process.communicate()


def work(way: str, place: Path, threads: int) -> None:
    """Answer questions on the standard input until it is closed."""
    image = np.load(place / "image.npy", allow_pickle=False)
    height, width = image.shape[:2]
    predictor, encode = (
        original(place, threads) if way == ORIGINAL else of_bundle(way, place, threads)
    )
    encode()  # the first allocates
    for question in sys.stdin:
        if question.strip() == "time":
            began = time.perf_counter()
            encode()
            print(time.perf_counter() - began, flush=True)
            continue
        predictor.set_image(image)
        boxes = np.array(BOXES) * [width, height, width, height]
        masks = [predictor.predict(box=box, multimask_output=False)[0][0] for box in boxes]
        target = place / f"{way}.npy"
        np.save(target, np.stack(masks))
        print(json.dumps(str(target)), flush=True)


def original(place: Path, threads: int) -> tuple[Any, Callable[[], Any]]:
    """The original predictor, and a pass of its encoder."""
    import torch

    warnings.simplefilter("ignore")  # of the registry of timm
    predictor = importlib.import_module("mobile_sam").SamPredictor
    build = importlib.import_module("mobile_sam.build_sam").build_sam_vit_t

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    model = build()
    model.load_state_dict(torch.load(place / "state.pt", weights_only=True))
    model.train().eval()  # biases of attention are cached by the first `eval`, before any state
    frame = torch.randn(1, 3, 1024, 1024)
    return predictor(model), lambda: model.image_encoder(frame)


def of_bundle(way: str, place: Path, threads: int) -> tuple[Any, Callable[[], Any]]:
    """A bundle's predictor in a runtime and form, and a pass of its encoder."""
    from mobile_sam.export.predictor import OnnxPredictor

    runtime, form = way.split()
    bundle = json.loads((place / "task.json").read_text())["bundle"]
    predictor = OnnxPredictor(bundle, form, threads, runtime)
    frame = np.random.default_rng(0).normal(size=(1, 3, 1024, 1024)).astype(np.float32)
    return predictor, lambda: predictor.encode(frame)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
