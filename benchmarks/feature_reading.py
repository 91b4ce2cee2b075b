"""Print how fast stored features are read, against reading the bare bytes, in one run.

    python benchmarks/feature_reading.py [--images 256] [--dtype float16]

A store of SAM's embeddings at 1024 pixels, 256x64x64 for each image, in random order from a warm
cache; two worker processes, as in training, and their batches in the main process.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import zarr
from torch.utils.data import DataLoader, Dataset

from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.digest_lookup import DIGEST_BYTES, as_digests
from mobile_sam.data.index.table import IndexedImage
from mobile_sam.features import arrays
from mobile_sam.features.encoding import encode, to_arrays
from mobile_sam.features.identity import Identity, bytes_per_image, identity
from mobile_sam.features.store import FeatureStore

WORKERS, BATCH, ROUNDS = 2, 8, 5


def make_store(path: Path, images: int, dtype: str) -> Identity:
    """A store of random features of `images` images, whose digests are their numbers."""
    config = RunConfig(
        run_name="bench",
        teacher_checkpoint="random",
        teacher_model_type="vit_h",
        feature_dtype=dtype,
    )
    expected = identity(config)
    store = arrays.create_arrays(path, expected)
    store.append(as_digests(b"".join(map(digest, range(images)))))
    for start in range(0, images, store.shard):
        parts = to_arrays(encode(torch.randn(store.shard, 1, 256, 64, 64), dtype))
        count = min(store.shard, images - start)
        store.write(start, {"neck": parts}, np.ones(count, dtype=bool))
    return expected


def digest(i: int) -> bytes:
    return (i + 1).to_bytes(DIGEST_BYTES, "big")


class Features(Dataset[dict[str, torch.Tensor]]):
    """The features of each image through a `FeatureStore`."""

    def __init__(self, path: Path, expected: Identity) -> None:
        self.store = FeatureStore(path, expected)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return self.store.read(IndexedImage(str(i), Path(f"{i}.png"), digest(i).hex(), (1, 1), ()))


class Bytes(Dataset[torch.Tensor]):
    """Raw bytes from the files of a store, as many per image as its features take."""

    def __init__(self, path: Path) -> None:
        self.files = sorted(p for p in (path / "neck" / "c").rglob("*") if p.is_file())
        self.size = self.files[0].stat().st_size // arrays.IMAGES_PER_SHARD

    def __getitem__(self, i: int) -> torch.Tensor:
        with self.files[i // arrays.IMAGES_PER_SHARD].open("rb") as file:
            file.seek(i % arrays.IMAGES_PER_SHARD * self.size)
            return torch.frombuffer(bytearray(file.read(self.size)), dtype=torch.uint8)


def seconds(dataset: Dataset[object], order: list[int]) -> float:
    """Return the seconds of one pass in that order; the workers have already opened the store."""
    loader = DataLoader(dataset, BATCH, sampler=order, num_workers=WORKERS)
    batches = iter(loader)
    for _ in range(2 * WORKERS):  # what the workers read while they start
        next(batches)
    began = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - began


def in_process(dataset: Features, order: list[int]) -> float:
    dataset[0]
    began = time.perf_counter()
    for i in order:
        dataset[i]
    return time.perf_counter() - began


def medians(measures: list[Callable[[], float]]) -> list[float]:
    """Return the medians of each, measured in turns, so that other load affects all of them."""
    found = [[measure() for measure in measures] for _ in range(ROUNDS)]
    return np.median(found, axis=0).tolist()


def main() -> None:
    """Print MiB of stored bytes per second of each, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--dtype", choices=["float16", "int8"], default="float16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bench.zarr"
        expected = make_store(path, args.images, args.dtype)
        size = bytes_per_image(expected)
        order = rng.permutation(args.images).tolist()
        bare_s, read_s, alone_s = medians(
            [
                lambda: seconds(Bytes(path), order),
                lambda: seconds(Features(path, expected), order),
                lambda: in_process(Features(path, expected), order),
            ]
        )
        total = args.images * size / 2**20
        counted = total - 2 * WORKERS * BATCH * size / 2**20
        bare, read, alone = counted / bare_s, counted / read_s, total / alone_s
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, zarr {zarr.__version__}, warm cache")
    print(f"{args.images} images of {size / 2**20:.2f} MiB, {args.dtype}, batches of {BATCH}")
    print(f"bare bytes, {WORKERS} workers      {bare:7.0f} MiB/s")
    print(f"FeatureStore, {WORKERS} workers    {read:7.0f} MiB/s  ratio {read / bare:.2f}")
    print(f"FeatureStore, one process  {alone:7.0f} MiB/s")


if __name__ == "__main__":
    main()
