"""Evaluation of weights outside any run: those of this package, of MobileSAM and of SAM."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mobile_sam.config.checkpoints import BOX_FILLED
from mobile_sam.config.sections import Data
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import Index, check_shapes
from mobile_sam.evaluation.cost import read_model_spec, write_costs
from mobile_sam.evaluation.options import EvaluationOptions
from mobile_sam.evaluation.rows import filled_box_rows
from mobile_sam.evaluation.runner import measure_images
from mobile_sam.evaluation.tables import write_table
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.device import default_device
from mobile_sam.system.atomic_files import file_digest
from mobile_sam.system.directories import mark_output
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.outputs import check_output

log = logging.getLogger(__name__)

_INDEX = "index.parquet"


@dataclass(frozen=True)
class EvaluationPaths:
    """Directories of an evaluation: inputs, measurements and report."""

    root: Path

    @property
    def index(self) -> Path:
        return self.root / "inputs" / _INDEX

    @property
    def costs(self) -> Path:
        return self.root / "measurements" / "cost.csv"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def table(self, name: str) -> Path:
        """Return the path of a checkpoint's table."""
        return self.root / "measurements" / f"{name}.parquet"

    def holds(self, entry: Path) -> bool:
        """Return whether an entry of the directory belongs to an evaluation."""
        return entry.name in {"inputs", "measurements", "report"} and self.index.is_file()

    def check(self) -> None:
        """Raise ConfigError if the directory holds other files or an older version's evaluation."""
        if (self.root / _INDEX).is_file():
            raise ConfigError(
                f"--out {self.root}: the directory holds an evaluation of an older version "
                "with another layout; delete it, or give another directory"
            )
        check_output(self.root, "--out", self.holds)


def evaluate_weights(
    weights: Sequence[Path],
    images: Path,
    masks: Path,
    paths: EvaluationPaths,
    options: EvaluationOptions,
    img_size: int = 1024,
    model_type: str | None = None,
    benchmark_repeats: int = 0,
    workers: int = 0,
    data_options: Data | None = None,
    device: torch.device | None = None,
) -> list[Path]:
    """Evaluate weights and the filled box. Returns the tables, that of the filled box first.

    images, masks: a data set in any format of `data.records`. paths: locations of the index and the
    tables; each table is named after its weights file. img_size: side of the model frame in pixels.
    model_type: architecture of all weights; None detects it. benchmark_repeats: runs per model.
    workers: number of processes that read the data set and of threads that read images.
    data_options: selects images and objects, and how they are read. device: of the models; None:
    the first GPU if there is one.
    Raises ConfigError for two files with the same name and for weights of an unknown architecture;
    then no file is written.
    """
    named = _named(weights)
    paths.check()
    model_specs = {
        name: read_model_spec(path, img_size, model_type) for name, path in named.items()
    }
    mark_output(paths.root)
    file = paths.index
    index_dataset({"val": (images, masks)}, file, data_options, num_workers=workers)
    check_shapes(file, img_size)
    index = Index(file, "val")
    about = {"thresholds": options.thresholds, "index": file_digest(file)}
    about |= index.metadata
    device = device or default_device()
    tables = [paths.table(BOX_FILLED)]
    positions = range(len(index))
    write_table(tables[0], filled_box_rows(index, positions, BOX_FILLED), about)
    for name, path in named.items():
        model = load_any(path, img_size, model_specs[name].model_type).eval().to(device)
        rows = measure_images(model, index, positions, options, name, workers)
        tables.append(paths.table(name))
        sample = options.click_sample(index.objects)
        clicks = {} if sample is None else {"click_objects": sample}
        write_table(tables[-1], rows, about | clicks | {"weights": file_digest(path)})
        log.info("%s (%s): %s", name, model_specs[name].model_type, tables[-1])
    if benchmark_repeats:
        write_costs(model_specs, paths.costs, benchmark_repeats, device)
    return tables


def _named(weights: Sequence[Path]) -> dict[str, Path]:
    """Return files by the names of their tables; `weights.pt` of a run is named after the run."""
    named: dict[str, Path] = {}
    for path in weights:
        name = path.resolve().parent.name if path.name == "weights.pt" else path.stem
        if name in named or name == BOX_FILLED:
            raise ConfigError(f"--weights {path}: {name!r} is there already; rename one of them")
        named[name] = path
    return named
