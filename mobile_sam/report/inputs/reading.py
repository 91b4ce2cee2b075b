"""Readers of the files of a report, as data frames.

Validation tables may have millions of rows with masks, so masks are read only for the gallery.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mobile_sam.data.index.near_duplicates import near_duplicate_notes
from mobile_sam.data.index.summary import Summary, summarise
from mobile_sam.evaluation.tables import open_table
from mobile_sam.system.cpus import cpus_of_rank
from mobile_sam.system.errors import UserError

_NAMES = ("checkpoint", "prompt", "image_id", "segment_id", "class")
_COLUMNS = (
    *_NAMES,
    *("height", "width", "area", "iou", "dice", "boundary_iou", "boundary_f", "predicted_iou"),
    *("noc_80", "noc_90", "recall"),
)
_MASKS = ("image_id", "image_path", "segment_id", "height", "width", "iou", "truth", "prediction")
_SWEEP = ("prompt", "sweep")
_COSTS = (
    *("checkpoint", "architecture", "parameters", "gflops_encoder", "gflops_decoder"),
    *(f"{part}_ms{end}" for part in ("encoder", "decoder") for end in ("", "_low", "_high")),
    *("memory_mib", "device", "threads", "img_size"),
)


def read_data(index: Path) -> Summary:
    """Return the summary of an index, with notes on near-duplicates of training images.

    Reads all images that were not read for this before. Raises DatasetError without an index.
    """
    return summarise(index, near_duplicate_notes(index, cpus_of_rank()))


def read_objects(path: Path, name: str) -> pd.DataFrame:
    """Read one row per object and prompt, without masks; `name` becomes its `checkpoint`.

    Names are categories. Raises UserError for a table that is missing, empty or of another version.
    """
    if open_table(path).metadata.num_rows == 0:
        raise UserError(f"{path}: the table is empty; validate again on images with objects")
    table = pq.read_table(path, columns=list(_COLUMNS), read_dictionary=list(_NAMES))
    frame = table.to_pandas(split_blocks=True, self_destruct=True)
    frame["checkpoint"] = pd.Categorical([name] * len(frame))
    return frame


def table_name(path: Path) -> str:
    """Return the `checkpoint` of a table."""
    return str(open_table(path).read_row_group(0, columns=["checkpoint"])["checkpoint"][0])


def concat_objects(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables and merge their categories."""
    frames = list(frames)
    for name in _NAMES:
        merged = pd.api.types.union_categoricals([frame[name] for frame in frames])
        for frame in frames:
            frame[name] = frame[name].cat.set_categories(merged.categories)
    return pd.concat(frames, ignore_index=True)


def read_sweep(path: Path, name: str) -> pd.DataFrame:
    """Read mean IoU by threshold of logits: columns checkpoint, prompt, threshold, miou."""
    file = open_table(path)
    thresholds = json.loads((file.schema_arrow.metadata or {}).get(b"thresholds", b"[]"))
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for group in range(file.num_row_groups if thresholds else 0):
        table = file.read_row_group(group, columns=list(_SWEEP))
        table = table.filter(pc.is_valid(table["sweep"]))
        for prompt in table["prompt"].unique().to_pylist():
            lists = table.filter(pc.equal(table["prompt"], prompt))["sweep"].combine_chunks()
            values = lists.flatten().to_numpy().reshape(len(lists), len(thresholds))
            sums[prompt] = sums.get(prompt, 0) + values.sum(0, dtype=np.float64)
            counts[prompt] = counts.get(prompt, 0) + len(values)
    frames = [
        pd.DataFrame({"prompt": p, "threshold": thresholds, "miou": sums[p] / counts[p]})
        for p in sums
    ]
    empty = pd.DataFrame(columns=["prompt", "threshold", "miou"])
    frame = pd.concat(frames, ignore_index=True) if frames else empty
    frame.insert(0, "checkpoint", name)
    return frame


def read_sweeps(tables: Mapping[str, Path]) -> pd.DataFrame:
    """Read the sweeps of several tables, by the names of their checkpoints."""
    frames = [read_sweep(path, name) for name, path in tables.items()]
    return pd.concat(frames, ignore_index=True)


def read_masks(path: Path, images: Sequence[str], prompt: str) -> pd.DataFrame:
    """Read the rows of some images with one prompt, with run-length codes of both masks."""
    filters = [("image_id", "in", list(images)), ("prompt", "==", prompt)]
    return pq.read_table(path, columns=list(_MASKS), filters=filters).to_pandas()


def read_average_precision(tables: Mapping[str, Path]) -> pd.DataFrame | None:
    """Read AP from `<checkpoint>.ap.json` beside each table; None if there is no such file."""
    rows = []
    for name, table in tables.items():
        path = table.with_suffix(".ap.json")
        if path.is_file():
            rows.append({"checkpoint": name, **json.loads(path.read_text(encoding="utf-8"))})
    return pd.DataFrame(rows) if rows else None


def read_costs(path: Path) -> pd.DataFrame | None:
    """Read the cost of each checkpoint; None if it was not measured."""
    return read_csv(path, _COSTS, "measure it again")[list(_COSTS)] if path.is_file() else None


def read_csv(path: Path, columns: Sequence[str], remedy: str) -> pd.DataFrame:
    """Read a table with required columns. Raises UserError that ends with the remedy."""
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas raises ValueError for files without a table
        raise UserError(f"{path}: not a table ({error}); delete it and {remedy}") from error
    missing = [name for name in columns if name not in frame]
    if missing:
        raise UserError(
            f"{path}: the table has no column {', '.join(missing)}: it was written by another "
            f"version of mobile_sam; delete it and {remedy}"
        )
    return frame


def read_times(directory: Path) -> pd.DataFrame:
    """Read Snakemake's benchmarks of each rule: columns rule, minutes, memory_mib."""
    rows = []
    for path in sorted(directory.glob("*.tsv")):
        # The report's own benchmark is from its previous run.
        if path.stem != "report":
            table = pd.read_csv(path, sep="\t", na_values="-")
            seconds, memory = (table.get(c, pd.Series(dtype=float)) for c in ("s", "max_rss"))
            minutes = seconds.sum() / 60
            rows.append({"rule": path.stem, "minutes": minutes, "memory_mib": memory.max()})
    return pd.DataFrame(rows, columns=["rule", "minutes", "memory_mib"])
