"""Stores of teacher features: content, growth and damage."""

import shutil
from pathlib import Path

import numpy as np

from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.features.arrays import open_arrays
from mobile_sam.features.identity import identity
from mobile_sam.paths import RunPaths


def contents(config: RunConfig) -> dict[str, np.ndarray]:
    """All arrays of the store of a run."""
    group = open_arrays(RunPaths(config).features, identity(config)).group
    return {name: array[:] for name, array in group.arrays()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].tobytes() == second[name].tobytes() for name in first
    )


def files(store: Path) -> dict[str, bytes]:
    """Every chunk file of a store, by its path in it."""
    found = [p for p in store.rglob("c/**/*") if p.is_file()]
    return {str(p.relative_to(store)): p.read_bytes() for p in found}


def make_index(config: RunConfig) -> None:
    paths = RunPaths(config)
    index_dataset(paths.sources, paths.index)


def add_images(data: Path, number: int) -> None:
    """Add so many training images to a copy of `scenes`."""
    write_scenes(data / "more", 10 + number, 64, seed=3)
    for part in ("image", "mask"):
        for path in sorted((data / "more" / part).iterdir())[10:]:
            shutil.move(path, data / "train" / part / path.name)
    shutil.rmtree(data / "more")


def shard_file(config: RunConfig, array: str = "neck") -> Path:
    """The only shard of an array of features."""
    (path,) = [p for p in (RunPaths(config).features / array / "c").rglob("*") if p.is_file()]
    return path


def damage(path: Path, how: str) -> None:
    """Flip a bit of the first chunk, cut the file in half, or remove it."""
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[100] ^= 1
        path.write_bytes(content)
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
