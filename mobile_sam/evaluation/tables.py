"""Tables of what was measured: parquet files whose bytes depend on their rows alone."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mobile_sam.config import ConfigError
from mobile_sam.faults import fault
from mobile_sam.files import whole

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
# Of the form and of what is measured: tables of another are neither read nor taken over.
VERSION, _VERSION_KEY = b"1", b"mobile_sam table"
_ROWS_OF_GROUP = 4096
_ROWS_AT_ONCE = 512  # held as Python objects


def write_table(target: Path, rows: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write rows of SCHEMA, a few thousand of them in memory at a time.

    about: plain values that are kept with the table, see `read_about`.
    """
    _write(target, _batches(rows), about)


def join_tables(
    target: Path,
    parts: list[Path],
    renamed: str | None = None,
    images: Sequence[str] | None = None,
) -> None:
    """Write the rows of all parts; the bytes are those of one table written at once.

    renamed: for column `checkpoint`. images: ids of those whose rows are taken; None: all.
    Raises ConfigError when a part is missing or of other settings than the first.
    """
    about = [read_about(part) for part in parts]
    for part, found in zip(parts, about, strict=True):
        if found != about[0]:
            raise ConfigError(f"{part}: of other settings than {parts[0]}; validate both again")

    def batches() -> Iterator[pa.Table]:
        for part in parts:
            for batch in pq.ParquetFile(part).iter_batches(_ROWS_OF_GROUP):
                table = pa.Table.from_batches([batch])
                if renamed is not None:
                    table = table.set_column(0, "checkpoint", pa.array([renamed] * len(table)))
                if images is not None:
                    table = table.filter(pc.is_in(table["image_id"], pa.array(images, pa.string())))
                yield table

    _write(target, batches(), about[0])


def read_about(path: Path) -> dict[str, Any]:
    """What a table says of itself. Raises ConfigError as `open_table` does."""
    metadata = open_table(path).schema_arrow.metadata or {}
    if b"thresholds" not in metadata:
        raise ConfigError(f"{path}: of an older version; delete it and validate again")
    others = {b"ARROW:schema", b"pandas", _VERSION_KEY}
    return {key.decode(): json.loads(metadata[key]) for key in metadata if key not in others}


def kept_about(path: Path) -> dict[str, Any]:
    """As `read_about`, and nothing for a file that cannot be read as a table of this version."""
    try:
        return read_about(path)
    except ConfigError:
        return {}


def open_table(path: Path) -> pq.ParquetFile:
    """The parquet file of a table.

    Raises ConfigError when it is missing, something else, or of another version.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: missing; run `validate --what {path.stem}` first")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        if fault(error):
            raise
        raise ConfigError(
            f"{path}: not a table of validation ({error}); delete it and validate again"
        ) from error
    # The first tables do not say which version they are.
    version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, VERSION)
    if version != VERSION:
        raise ConfigError(
            f"{path}: a table of format version {version.decode()}, and this package reads "
            f"{VERSION.decode()}; delete it and validate again"
        )
    missing = sorted(set(SCHEMA.names) - set(file.schema_arrow.names))
    if missing:
        raise ConfigError(
            f"{path}: the table has no {', '.join(missing)}: it is of another version of "
            "mobile_sam; delete it and validate again"
        )
    return file


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[pa.Table]:
    waiting: list[Mapping[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == _ROWS_AT_ONCE:
            yield pa.Table.from_pylist(waiting, SCHEMA)
            waiting = []
    yield pa.Table.from_pylist(waiting, SCHEMA)


def _write(target: Path, tables: Iterable[pa.Table], about: Mapping[str, Any]) -> None:
    said: dict[bytes, bytes] = {k.encode(): json.dumps(v).encode() for k, v in about.items()}
    schema = SCHEMA.with_metadata(said | {_VERSION_KEY: VERSION})
    with (
        whole(target) as unfinished,
        pq.ParquetWriter(unfinished, schema, compression="zstd") as writer,
    ):
        for group in _groups(tables):
            writer.write_table(group.replace_schema_metadata(schema.metadata))


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of equal length, whatever the lengths were."""
    waiting = SCHEMA.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table.replace_schema_metadata(None)])
        while len(waiting) >= _ROWS_OF_GROUP:
            yield waiting.slice(0, _ROWS_OF_GROUP).combine_chunks()
            waiting = waiting.slice(_ROWS_OF_GROUP)
    if len(waiting):
        yield waiting.combine_chunks()
