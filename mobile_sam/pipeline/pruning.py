"""Shared results of a project that none of its runs needs."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mobile_sam.config.load import load_settings
from mobile_sam.config.schedule import needs_features
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.paths import read_text


def unneeded(project: Path) -> list[Path]:
    """Return the stages, data sets, feature stores and start weights that no run needs.

    A run needs what its last workflow used: the stages in its `stages.json`, and the files of its
    settings. Raises ConfigError if a project has no runs or if the files of a run cannot be read.
    """
    shared = project / "shared"
    if not shared.is_dir():
        raise ConfigError(f"{project}: not the directory of a project; it has no {shared.name}/")
    needed = {path for names in sorted(project.glob("*/stages.json")) for path in _stages(names)}
    needed |= {path for run in sorted(project.glob("*/run.json")) for path in _files(run)}
    kept = needed | {ancestor for path in needed for ancestor in path.parents}
    others = {path for path in _results(shared) if path not in kept}
    return sorted(path for path in others if others.isdisjoint(path.parents))


def remove(paths: Sequence[Path]) -> None:
    """Remove results, with the files of each feature store that lie beside it."""
    for path in paths:
        beside = path.parent.glob(f"{path.stem}.*") if path.suffix in {".zarr", ".pt"} else [path]
        for entry in beside:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def size(path: Path) -> int:
    """Return the number of bytes of a file, or of all files below a directory."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def _results(shared: Path) -> Iterator[Path]:
    """Yield what runs share; everything else stays."""
    yield from (shared / "stages").glob("*/")
    yield from (shared / "shapes").glob("*.pt")
    for settings in shared.glob("*/dataset.json"):
        yield settings.parent
        yield from settings.parent.glob("features/*.zarr")


def _stages(names: Path) -> Iterator[Path]:
    """Yield the directories of the stages of a run, from its `stages.json`."""
    try:
        stages = json.loads(read_text(names))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{names}: not JSON ({error.msg}); run its workflow again") from None
    return (names.parents[1] / "shared" / "stages" / name for name in stages.values())


def _files(settings: Path) -> Iterator[Path]:
    """Yield the data set, the feature stores and the start weights of a run."""
    config, shared = load_settings(settings), settings.parents[1] / "shared"
    paths = RunPaths(config)
    dataset = shared / paths.dataset.name
    yield dataset
    if needs_features(config):
        yield from (dataset / "features" / f"{t.features_name}.zarr" for t in paths.teachers)
    if paths.shape_weights is not None:
        yield shared / "shapes" / paths.shape_weights.name
