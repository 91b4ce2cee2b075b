"""Print speed and memory of automatic masks, compared with the original code.

    python benchmarks/automatic.py [--points-per-side 16] [--image-size 1024] [--good 0.3]

Both look for masks in the same drawn scene with the same weights of a randomly initialised `vit_t`
of 1024 px in float32, in turns, each in a process of its own. A share of the answers is good: those
above a threshold of predicted IoU. All of them count as stable. `make oracle` fetches the original.

Printed on two idle x86-64 cores, with `--points-per-side 32`:

    ours          25.5 s    1162 MB    12 masks, 12 the same
    original     129.6 s    2819 MB    12 masks, 12 the same
    5.08 times faster

and with `--image-size 4000 --points-per-side 3`, where one of 10 million pixels of a mask differs:

    ours           2.1 s    1196 MB     2 masks, 1 the same
    original       5.5 s    3138 MB     2 masks, 1 the same
    2.58 times faster
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Print seconds and peak memory of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oracle", type=Path, default=Path(".venv/oracle"))
    parser.add_argument("--points-per-side", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=1024, help="pixels of the longer side")
    parser.add_argument("--good", type=float, default=0.3, help="share of good answers")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child[0], torch.load(args.child[1], weights_only=True))))
        return
    if not (args.oracle / "mobile_sam").is_dir():
        sys.exit(f"{args.oracle} has no original code; run `make oracle` or name --oracle")
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, torch")
    with tempfile.TemporaryDirectory() as directory:
        task = Path(directory) / "task.pt"
        torch.save(make_task(args.image_size, args.points_per_side, args.good), task)
        for _ in range(args.pairs):
            own, original = (answer(who, task, args.oracle) for who in ("ours", "original"))
            same = sum(a == b for a, b in zip(own["codes"], original["codes"], strict=False))
            for who, found in (("ours", own), ("original", original)):
                print(f"{who:10}{found['seconds']:8.1f} s{found['peak_mb']:8.0f} MB", end="")
                print(f"{len(found['codes']):6} masks, {same} the same")
            print(f"{original['seconds'] / own['seconds']:.2f} times faster", flush=True)


def make_task(image_size: int, points_per_side: int, good: float) -> dict[str, Any]:
    """Weights, an image (3/4 S, S, 3), and options by which a share `good` of answers is kept."""
    from mobile_sam.data.synthetic import scene
    from mobile_sam.inference.grid import point_grid
    from mobile_sam.inference.predictor import SamPredictor
    from mobile_sam.models.build import build_sam_model
    from mobile_sam.models.weights import to_original

    model = build_sam_model("vit_t", 1024, seed=1).eval()
    with torch.no_grad():
        for layer in (0, 3):  # else masks are a grain of single pixels, unlike all real ones
            weight = model.mask_decoder.output_upscaling[layer].weight
            weight[:] = weight.mean((2, 3), keepdim=True)
    pixels, _ = scene(image_size, np.random.default_rng(1))
    image = np.ascontiguousarray(pixels[: image_size * 3 // 4])
    predictor = SamPredictor(model)
    predictor.set_image(image)
    points = torch.from_numpy(point_grid(8)).float() * torch.tensor([1024, 768])
    _, predicted_iou = predictor.decode(points[:, None], torch.ones(len(points), 1))
    options = {
        "points_per_side": points_per_side,
        "pred_iou_thresh": float(predicted_iou.quantile(1 - good)),
        "stability_score_thresh": 0.0,
        "output_mode": "coco_rle",
    }
    return {"state": to_original(model), "image": torch.from_numpy(image), "options": options}


def answer(who: str, task: Path, oracle: Path) -> dict[str, Any]:
    """Return the result of `child` from a separate process; both packages have one name."""
    command = [sys.executable, __file__, "--child", who, str(task)]
    paths = [str(oracle.resolve())] if who == "original" else []
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)


def child(who: str, task: dict[str, Any]) -> dict[str, Any]:
    """Seconds, codes of the masks, and the peak memory of the process in MB."""
    generator = (ours if who == "ours" else original)(task)
    began = time.perf_counter()
    records = generator.generate(task["image"].numpy())
    seconds = time.perf_counter() - began
    # `ru_maxrss` would start at the memory of the parent.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    codes = [record["segmentation"]["counts"] for record in records]
    return {"seconds": seconds, "codes": codes, "peak_mb": peak}


def ours(task: dict[str, Any]) -> Any:
    """Our generator with the weights and options of a task."""
    from mobile_sam.inference.automatic_masks import SamAutomaticMaskGenerator
    from mobile_sam.models.build import build_sam_model
    from mobile_sam.models.weights import load_state

    model = build_sam_model("vit_t", 1024).eval()
    load_state(model, task["state"], "the task")
    return SamAutomaticMaskGenerator(model, **task["options"])


def original(task: dict[str, Any]) -> Any:
    """The original generator with the weights and options of a task."""
    from mobile_sam import SamAutomaticMaskGenerator
    from mobile_sam.build_sam import build_sam_vit_t

    model = build_sam_vit_t()
    model.load_state_dict(task["state"], strict=True)
    model.train().eval()  # biases of attention are cached by `eval`
    return SamAutomaticMaskGenerator(model, **task["options"])


if __name__ == "__main__":
    main()
