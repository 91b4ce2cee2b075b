"""Validation tables: parquet files whose bytes depend only on their rows and metadata."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mobile_sam.config.checkpoints import TABLE_VERSION
from mobile_sam.system.atomic_files import atomic_write
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.machine_errors import machine_fault

SCHEMA = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("prompt", pa.string()),
        ("image_id", pa.string()),
        ("image_path", pa.string()),
        ("segment_id", pa.string()),
        ("class", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("area", pa.int64()),
        ("iou", pa.float64()),
        ("dice", pa.float64()),
        ("boundary_iou", pa.float64()),
        ("boundary_f", pa.float64()),
        ("predicted_iou", pa.float64()),
        ("noc_80", pa.int16()),
        ("noc_90", pa.int16()),
        ("recall", pa.float64()),
        ("sweep", pa.list_(pa.float32())),
        ("truth", pa.binary()),  # run-length codes
        ("prediction", pa.binary()),
    ]
)
# Tables of other versions are neither read nor reused.
VERSION, _VERSION_KEY = str(TABLE_VERSION).encode(), b"mobile_sam table"
_ROWS_PER_GROUP = 4096
_BATCH_ROWS = 512  # rows held as Python objects


def write_table(
    target: Path, rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]
) -> None:
    """Write rows of SCHEMA while holding a few thousand of them in memory.

    metadata: JSON values that are stored in the file, see `read_metadata`.
    """
    _write(target, _batches(rows), metadata)


def join_tables(
    target: Path,
    parts: list[Path],
    renamed: str | None = None,
    images: Sequence[str] | None = None,
) -> None:
    """Concatenate tables; the bytes are those of one table that was written at once.

    renamed: new value of column `checkpoint`. images: ids of the images to keep; None: all.
    Raises ConfigError if a table is missing or its settings differ from those of the first.
    """
    metadata = [read_metadata(part) for part in parts]
    for part, part_metadata in zip(parts, metadata, strict=True):
        if part_metadata != metadata[0]:
            raise ConfigError(
                f"{part}: its settings differ from those of {parts[0]}; validate both again"
            )

    def batches() -> Iterator[pa.Table]:
        for part in parts:
            for batch in pq.ParquetFile(part).iter_batches(_ROWS_PER_GROUP):
                table = pa.Table.from_batches([batch])
                if renamed is not None:
                    table = table.set_column(0, "checkpoint", pa.array([renamed] * len(table)))
                if images is not None:
                    table = table.filter(pc.is_in(table["image_id"], pa.array(images, pa.string())))
                yield table

    _write(target, batches(), metadata[0])


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a table. Raises ConfigError like `open_table`."""
    raw = open_table(path).schema_arrow.metadata or {}
    if b"thresholds" not in raw:
        raise ConfigError(f"{path}: written by an older version; delete it and validate again")
    others = {b"ARROW:schema", b"pandas", _VERSION_KEY}
    return {key.decode(): json.loads(raw[key]) for key in raw if key not in others}


def read_metadata_or_empty(path: Path) -> dict[str, Any]:
    """Read the metadata of a table; {} if it cannot be read as a table of this version."""
    try:
        return read_metadata(path)
    except ConfigError:
        return {}


def open_table(path: Path) -> pq.ParquetFile:
    """Open the parquet file of a table.

    Raises ConfigError if it is missing, is not a validation table, or has another version.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: missing; run `validate --checkpoint {path.stem}` first")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        if machine_fault(error):
            raise
        raise ConfigError(
            f"{path}: not a validation table ({error}); delete it and validate again"
        ) from error
    # The first tables have no version number.
    version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"1")
    if version != VERSION:
        raise ConfigError(
            f"{path}: the table has format version {version.decode()}, but this package "
            f"reads version {VERSION.decode()}; delete it and validate again"
        )
    missing = sorted(set(SCHEMA.names) - set(file.schema_arrow.names))
    if missing:
        raise ConfigError(
            f"{path}: the table has no column {', '.join(missing)}: it was written by another "
            "version of mobile_sam; delete it and validate again"
        )
    return file


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[pa.Table]:
    waiting: list[Mapping[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == _BATCH_ROWS:
            yield pa.Table.from_pylist(waiting, SCHEMA)
            waiting = []
    yield pa.Table.from_pylist(waiting, SCHEMA)


def _write(target: Path, tables: Iterable[pa.Table], metadata: Mapping[str, Any]) -> None:
    encoded: dict[bytes, bytes] = {k.encode(): json.dumps(v).encode() for k, v in metadata.items()}
    schema = SCHEMA.with_metadata(encoded | {_VERSION_KEY: VERSION})
    with (
        atomic_write(target) as unfinished,
        pq.ParquetWriter(unfinished, schema, compression="zstd") as writer,
    ):
        for group in _groups(tables):
            writer.write_table(group.replace_schema_metadata(schema.metadata))


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables of equal length, independent of the lengths of the input."""
    waiting = SCHEMA.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table.replace_schema_metadata(None)])
        while len(waiting) >= _ROWS_PER_GROUP:
            yield waiting.slice(0, _ROWS_PER_GROUP).combine_chunks()
            waiting = waiting.slice(_ROWS_PER_GROUP)
    if len(waiting):
        yield waiting.combine_chunks()
