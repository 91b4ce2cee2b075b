"""Print the peak memory and time of one ViT-H feature at 1024 pixels on the CPU.

    python benchmarks/vit_h_memory.py

Random weights are written to a file and loaded as an extraction loads them, in a new process.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mobile_sam.extraction.passes import batch_size
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.weights import to_original


def extract(path: Path) -> None:
    """Load the weights and encode one batch; print what it took."""
    model = load_any(path, 1024, "vit_h").eval()
    loaded = peak()
    size = batch_size(model.image_encoder, model.image_encoder, 1024, torch.device("cpu"))
    began = time.monotonic()
    with torch.no_grad():
        features = model.image_encoder(torch.randn(size, 3, 1024, 1024))
    seconds = time.monotonic() - began
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}")
    print(f"ViT-H, 1024 px, float32, batches of {size}: features {tuple(features.shape)}")
    print(f"peak memory {loaded:.2f} GiB after loading, {peak():.2f} GiB at the end")
    print(f"{seconds / size:.1f} s an image")


def peak() -> float:
    """Largest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Write random weights, then measure in a process of its own."""
    if len(sys.argv) > 1:
        extract(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vit_h.pt"
        torch.save(to_original(build_sam_model("vit_h")), path)
        subprocess.run([sys.executable, __file__, str(path)], check=True)


if __name__ == "__main__":
    main()
