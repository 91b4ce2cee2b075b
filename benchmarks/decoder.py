"""Print how much faster the mask decoder is than the original one on repeated embeddings.

    python benchmarks/decoder.py [--oracle .venv/oracle] [--pairs 5] [--prompts 1 4 16]

Both decode box prompts of one image of 1024 px in float32, with the weights of a randomly
initialised `vit_t`, in turns; the ratio is the median of those of the pairs. `make oracle` fetches
the original.
"""

import argparse
import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam

Decode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # of an embedding and boxes (N, 2, 2)


def main() -> None:
    """Print seconds per object of both decoders, their ratio, and how far the outputs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oracle", type=Path, default=Path(".venv/oracle"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 4, 16])
    args = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {threads} threads, torch", end=" ")
    print(f"{torch.__version__}; 1024 px, float32, boxes of one image; seconds an object")
    ours = build_sam_model("vit_t", 1024).eval()

    def own(embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return ours.decode(embedding, boxes, torch.tensor([[2, 3]]).expand(len(boxes), -1))

    decoders: tuple[Decode, Decode] = own, original_of(ours, args.oracle)
    print(f"{'prompts':<10}{'':<20}{'original':>10}{'ours':>10}{'faster':>9}{'differs by':>13}")
    for count in args.prompts:
        for backward in (True, False):
            compare(decoders, count, backward, args.pairs)


def compare(decoders: tuple[Decode, Decode], count: int, backward: bool, pairs: int) -> None:
    """Print a row: both in turns on the same prompts; the difference is a share of the largest."""
    embedding = torch.randn(1, 256, 64, 64)
    boxes = (torch.rand(count, 2, 2) * 1024).sort(dim=1).values
    seconds: list[list[float]] = [[], []]
    for turn in range(pairs + 1):
        results = []
        for decode, found in zip(decoders, seconds, strict=True):
            taken, result = step(decode, embedding, boxes, backward)
            results.append(result)
            if turn:  # the first allocates
                found.append(taken / count)
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True))
    own, original = map(statistics.median, seconds)
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    what = "forward + backward" if backward else "forward"
    print(f"{count:<10}{what:<20}{original:10.4f}{own:10.4f}{ratio:8.2f}x{apart:13.1e}", flush=True)


def step(
    decode: Decode, embedding: Tensor, boxes: Tensor, backward: bool
) -> tuple[float, list[Tensor]]:
    """Seconds of a step, and its outputs with the embedding's gradient, if there is one."""
    embedding = embedding.clone().requires_grad_(backward)
    began = time.perf_counter()
    with torch.set_grad_enabled(backward):
        logits, iou = decode(embedding, boxes)
    if backward:
        (logits.square().mean() + iou.sum()).backward()
    taken = time.perf_counter() - began
    gradient = [] if embedding.grad is None else [embedding.grad]
    return taken, [logits.detach(), iou.detach(), *gradient]


def original_of(model: Sam, oracle: Path) -> Decode:
    """The original decoder with `model`'s weights; it repeats the embedding for each prompt."""
    prompt_encoder = original_module(oracle, "prompt_encoder").PromptEncoder(
        embed_dim=256,
        image_embedding_size=(64, 64),
        input_image_size=(1024, 1024),
        mask_in_chans=16,
    )
    transformer = original_module(oracle, "transformer").TwoWayTransformer(
        depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8
    )
    mask_decoder = original_module(oracle, "mask_decoder").MaskDecoder(
        transformer_dim=256, transformer=transformer
    )
    copies: list[tuple[nn.Module, nn.Module]] = [
        (prompt_encoder, model.prompt_encoder),
        (mask_decoder, model.mask_decoder),
    ]
    for theirs, ours in copies:
        theirs.load_state_dict(ours.state_dict(), strict=True)
        theirs.eval()

    def decode(embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        sparse, dense = prompt_encoder(None, boxes, None)
        return mask_decoder(embedding, prompt_encoder.get_dense_pe(), sparse, dense, False)

    return decode


def original_module(oracle: Path, name: str) -> ModuleType:
    """A module of the original package under another name than its own, which is ours too."""
    directory = oracle / "mobile_sam" / "modeling"
    if not directory.is_dir():
        sys.exit(f"{directory} does not exist; run `make oracle` or name --oracle")
    package = sys.modules.setdefault("original_modeling", ModuleType("original_modeling"))
    package.__path__ = [str(directory)]
    return importlib.import_module(f"original_modeling.{name}")


if __name__ == "__main__":
    main()
