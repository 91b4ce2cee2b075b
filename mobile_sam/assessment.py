"""Weights measured on images and masks outside any run: this package's, MobileSAM's and SAM's."""

import logging
from collections.abc import Sequence
from pathlib import Path

from mobile_sam.config import ConfigError
from mobile_sam.data.index import Index
from mobile_sam.data.indexing import index_dataset
from mobile_sam.evaluation.cost import blueprint_of, write_costs
from mobile_sam.evaluation.measure import measured
from mobile_sam.evaluation.measuring import Measuring
from mobile_sam.evaluation.rows import boxes_filled
from mobile_sam.evaluation.tables import write_table
from mobile_sam.files import file_digest
from mobile_sam.layout import BOX_FILLED
from mobile_sam.models.device import default_device
from mobile_sam.models.recognise import load_any

log = logging.getLogger(__name__)


def assess(
    weights: Sequence[Path],
    images: Path,
    masks: Path,
    target: Path,
    how: Measuring,
    img_size: int = 1024,
    model_type: str | None = None,
    cost_repeats: int = 0,
    workers: int = 0,
) -> list[Path]:
    """Measure weights, and the filled box beside them; returns the tables, that of the box first.

    images, masks: a data set in any format of `data.records`. target: a directory for the index and
    the tables `<name>.parquet`, named as the files are. img_size: side of the model frame in
    pixels. model_type: of all weights; None recognises it. cost_repeats: timed runs of each model.
    workers: processes that read the data set, and threads that read images.
    Raises ConfigError for two files of one name, and weights of no known architecture; then nothing
    is written.
    """
    named = _named(weights)
    blueprints = {name: blueprint_of(path, img_size, model_type) for name, path in named.items()}
    file = target / "index.parquet"
    index_dataset({"val": (images, masks)}, file, num_workers=workers)
    index = Index(file, "val")
    about = {"thresholds": how.thresholds, "index": file_digest(file)}
    device = default_device()
    tables = [target / f"{BOX_FILLED}.parquet"]
    everything = range(len(index))
    write_table(tables[0], boxes_filled(index, everything, BOX_FILLED), about)
    for name, path in named.items():
        model = load_any(path, img_size, blueprints[name].model_type).eval().to(device)
        rows = measured(model, index, everything, how, name, workers)
        tables.append(target / f"{name}.parquet")
        write_table(tables[-1], rows, about | {"weights": file_digest(path)})
        log.info("%s (%s): %s", name, blueprints[name].model_type, tables[-1])
    if cost_repeats:
        write_costs(blueprints, target / "cost.csv", cost_repeats)
    return tables


def _named(weights: Sequence[Path]) -> dict[str, Path]:
    """Files by the names of their tables. `weights.pt` of a run is named by the run."""
    named: dict[str, Path] = {}
    for path in weights:
        name = path.resolve().parent.name if path.name == "weights.pt" else path.stem
        if name in named or name in {BOX_FILLED, "index"}:
            raise ConfigError(f"--weights {path}: {name!r} is there already; rename one of them")
        named[name] = path
    return named
