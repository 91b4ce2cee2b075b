"""Print how fast the image encoder trains in several memory layouts and compiled, in one run.

    python benchmarks/encoder.py [--img-size 1024] [--rounds 5] [--compile]

Forward and backward of a randomly initialised `vit_t` on one image in float32, in turns: all in
contiguous tensors, as the encoder does it (an image with channels last), with channels of its
parameters last too, and compiled. A ratio is the median of those of the rounds. `--compile` needs
a C++ compiler and takes minutes of compiling.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mobile_sam.models.build import build_sam_model
from mobile_sam.models.tiny_vit import TinyViTEncoder

Encode = Callable[[Tensor], Tensor]


def main() -> None:
    """Print seconds of a step of each way, and its ratio to contiguous tensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--img-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {threads} threads, torch", end=" ")
    print(f"{torch.__version__}; vit_t, {args.img_size} px, batch 1, float32, forward + backward")
    image = torch.randn(1, 3, args.img_size, args.img_size)
    ways = encoders(args.img_size, args.compile)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.rounds + 1):
        for name, encode in ways.items():
            taken = step(encode, image)
            if turn:  # the first allocates, and compiles
                seconds[name].append(taken)
    for name, found in seconds.items():
        pairs = zip(seconds["contiguous"], found, strict=True)
        ratio = statistics.median(before / after for before, after in pairs)
        print(f"{name:<24}{statistics.median(found):8.3f} s {ratio:7.2f}x")


def encoders(img_size: int, compiled: bool) -> dict[str, Encode]:
    """The encoder with the same weights in each way, by its name."""
    ways: dict[str, Encode] = {
        "contiguous": contiguous(build(img_size)),
        "channels last": build(img_size),
        "also in parameters": build(img_size).to(memory_format=torch.channels_last),
    }
    if compiled:
        ways["channels last, compiled"] = torch.compile(build(img_size))
    return ways


def build(img_size: int) -> nn.Module:
    """An encoder in training mode."""
    return build_sam_model("vit_t", img_size).image_encoder.train()


def contiguous(encoder: nn.Module) -> Encode:
    """Run the image encoder without its change of memory layout."""
    if not isinstance(encoder, TinyViTEncoder):
        raise TypeError(f"{type(encoder).__name__} is not a TinyViTEncoder")
    body, neck = encoder.body, encoder.neck
    return lambda images: neck(body.stages(body.patch_embed(images)))


def step(encode: Encode, image: Tensor) -> float:
    """Seconds of a forward and backward pass."""
    began = time.perf_counter()
    encode(image).square().mean().backward()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
