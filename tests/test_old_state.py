"""Files of other versions: each kind that outlives a process is refused in a sentence, or renewed.

Damage of files of the right version has its tests with their readers.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from mobile_sam.config.load import Runs, load_settings
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.table import SCHEMA, Index, open_index
from mobile_sam.evaluation import tables
from mobile_sam.extraction.plan import plan_extraction
from mobile_sam.features.identity import identity
from mobile_sam.features.store import FeatureStore
from mobile_sam.models.student_teacher import start_student
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.settings_files import write_settings
from mobile_sam.report.inputs.reading import read_objects
from mobile_sam.system.errors import UserError
from mobile_sam.training import checkpoint
from mobile_sam.training.export import export_weights
from mobile_sam.training.run import train_run
from tests.helpers.runs import TWO_STAGES, tiny_settings

Make = Callable[..., RunConfig]
DISTIL = {"use_distill": True}
FROZEN = {"freeze": {"image_encoder": True}}

CHECKPOINTS: dict[str, tuple[Any, str]] = {
    "older": ({"format": checkpoint.FORMAT, "version": 1}, "version 1, .*; delete it and train"),
    "newer": ({"format": checkpoint.FORMAT, "version": 99}, "99, .* install the newer mobile_sam"),
    "without a version": ({"format": checkpoint.FORMAT}, "version None, .*; delete it and train"),
    "weights": ({"a": torch.zeros(1)}, "not a checkpoint of mobile_sam; train the stage again"),
    "a list": ([torch.zeros(1)], "not a checkpoint of mobile_sam; train the stage again"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_of_another_form_are_refused(name: str, tmp_path: Path) -> None:
    content, message = CHECKPOINTS[name]
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=rf"x\.pt: .*{message}"):
        checkpoint.load(tmp_path / "x.pt")


READERS: dict[str, tuple[Callable[[RunConfig], Path], Callable[[RunConfig], None]]] = {
    "resume state": (lambda c: RunPaths(c).state(normalise(c)[0]) / "resume.pt", train_run),
    "stage before": (
        lambda c: RunPaths(c).checkpoint(normalise(c)[0]),
        lambda c: train_run(c, "01_finetune"),
    ),
    "last stage": (lambda c: RunPaths(c).checkpoint(normalise(c)[-1]), export_weights),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_of_checkpoints_looks_at_the_version(name: str, tiny: Make) -> None:
    place, read = READERS[name]
    config = tiny(num_epochs=4, stage_schedule=TWO_STAGES)
    path = place(config)
    path.parent.mkdir(parents=True)
    torch.save({"format": checkpoint.FORMAT, "version": 1}, path)
    with pytest.raises(UserError, match=rf"{path.name}: the checkpoint has format version 1"):
        read(config)
    assert path.is_file()


def test_a_checkpoint_is_no_start_weights(tiny: Make, tmp_path: Path) -> None:
    for content in ({"format": checkpoint.FORMAT, "version": 2}, [torch.zeros(1)]):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(UserError, match=r"x\.pt: not a weights file; .*weights\.pt"):
            start_student(tiny(checkpoint=str(tmp_path / "x.pt")))


def test_weights_of_another_architecture_are_refused_key_by_key(tiny: Make, tmp_path: Path) -> None:
    torch.save({"image_encoder.old_name": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: .*missing: .*unexpected: image_encoder\.old_name"):
        start_student(tiny(checkpoint=str(tmp_path / "x.pt")))


# Attributes of a store, the sentence, and whether planning makes the store in its own place anew.
STORES: dict[str, tuple[dict[str, Any], str, bool]] = {
    "older": ({"version": 1}, "version is 1 instead of 2; delete it or set", True),
    "newer": ({"version": 99}, "version 99, .* install the newer mobile_sam .* or delete", False),
    "without a version": ({"version": None}, "version is None instead of 2; delete it", True),
    "another kind": ({"format": "x", "version": 99}, "format is 'x' instead of .*; delete", True),
}


@pytest.mark.parametrize("name", STORES)
def test_feature_stores_of_another_form_are_refused(name: str, tiny: Make) -> None:
    attributes, message, renewed = STORES[name]
    config = tiny(**DISTIL)
    paths = RunPaths(config)
    zarr.open_group(paths.features, mode="r+").attrs.update(attributes)
    with pytest.raises(UserError, match=rf"\.zarr: .*{message}"):
        FeatureStore(paths.features, identity(config)).read(Index(paths.index, "train")[0])
    if renewed:
        assert plan_extraction(config) == 10
    else:
        with pytest.raises(UserError, match=message):
            plan_extraction(config)
        assert zarr.open_group(paths.features).attrs["version"] == 99


@pytest.mark.parametrize("zarr_json", ["{", "[]", "{}", None])
def test_a_directory_that_is_no_store_is_kept_where_its_path_was_given(
    zarr_json: str | None, tiny: Make, tmp_path: Path
) -> None:
    config = tiny(**DISTIL)
    given = tmp_path / "mine"
    given.mkdir()
    (given / ("zarr.json" if zarr_json else "photo.jpg")).write_text(zarr_json or "")
    config = config.model_copy(update={"train_img_dir_teacher_features": str(given)})
    with pytest.raises(UserError, match=r"mine: .*feature store.*; delete it or set"):
        plan_extraction(config)
    assert len(list(given.iterdir())) == 1


def test_manifests_of_stores_are_read_by_nobody(tiny: Make) -> None:
    config = tiny(**DISTIL)
    paths = RunPaths(config)
    for path in (paths.features_manifest, paths.features_plan, paths.features_part(0)):
        path.write_text("of another version")
    assert plan_extraction(config) == 0
    train_run(config)
    assert paths.checkpoint(normalise(config)[0]).is_file()


@pytest.mark.parametrize("version", [0, 99])
def test_kept_embeddings_are_made_anew_unless_newer(version: int, tiny: Make) -> None:
    config = tiny(**FROZEN)
    train_run(config)
    (store,) = RunPaths(config).embeddings("x", "y").parent.glob("*.zarr")
    zarr.open_group(store, mode="r+").attrs["version"] = version
    shutil.rmtree(RunPaths(config).state(normalise(config)[0]))
    if version:
        with pytest.raises(UserError, match=r"version 99, .* install the newer mobile_sam"):
            train_run(config, "00_finetune")
    else:
        train_run(config, "00_finetune")
        assert zarr.open_group(store).attrs["version"] == 1


def with_metadata(path: Path, **changes: str | None) -> None:
    """Rewrite a parquet file with other metadata; None removes a key."""
    table = pq.read_table(path)
    metadata = {k.decode(): v.decode() for k, v in pq.read_metadata(path).metadata.items()}
    kept = {k: v for k, v in (metadata | changes).items() if v is not None and "ARROW" not in k}
    pq.write_table(table.replace_schema_metadata(kept), path)


INDEXES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "older": (lambda p: with_metadata(p, version="1"), "has version 1, .* version 2; delete it"),
    "newer": (lambda p: with_metadata(p, version="99"), "has version 99, .*; delete it and"),
    "without a version": (lambda p: with_metadata(p, version=None), "has version 0, .*; delete"),
    "another kind": (
        lambda p: pq.write_table(SCHEMA.remove_metadata().empty_table(), p),
        "not an index but another table; delete it and index again",
    ),
    "no table": (lambda p: p.write_text("{}"), "not an index, or a damaged one .*; delete it"),
    "half of it": (
        lambda p: p.write_bytes(p.read_bytes()[:500]),
        "not an index, or a damaged one .*; delete it and index again",
    ),
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_of_another_form_is_refused(name: str, tiny: Make) -> None:
    path = RunPaths(tiny()).index
    open_index(path)
    change, message = INDEXES[name]
    change(path)
    with pytest.raises(UserError, match=rf"index\.parquet: .*{message}"):
        open_index(path)


STAMPS: dict[str, Callable[[Path], Any]] = {
    "text": lambda p: p.write_text("stamps"),
    "half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "other names": lambda p: np.savez(p, old=np.zeros(1)),
    "an array": lambda p: np.save(p.open("wb"), np.zeros(1)),
}


@pytest.mark.parametrize("name", [*INDEXES, *STAMPS])
def test_of_a_kept_index_of_another_form_nothing_is_taken_over(
    name: str, tiny: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths, kept = RunPaths(tiny()), tmp_path / "index.kept.parquet"
    index_dataset(paths.sources, paths.index, kept=kept)
    if name in INDEXES:
        content = kept.read_bytes()
        kept.unlink()  # it is a second name of the index itself
        kept.write_bytes(content)
        INDEXES[name][0](kept)
    else:
        (path,) = tmp_path.glob("index.kept.*.npz")
        STAMPS[name](path)
    before = paths.index.read_bytes()
    with caplog.at_level("INFO"):
        index_dataset(paths.sources, paths.index, kept=kept)
    assert "reading all images" in caplog.text
    assert paths.index.read_bytes() == before


TABLES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "other columns": (
        lambda p: pq.write_table(
            pa.table(
                {"checkpoint": ["x"], "iou": [0.5]},
                pa.schema(
                    [("checkpoint", pa.string()), ("iou", pa.float64())],
                    {"mobile_sam table": tables.VERSION},
                ),
            ),
            p,
        ),
        "the table has no column area, boundary_f, .*; delete it and validate again",
    ),
    "newer": (
        lambda p: with_metadata(p, **{"mobile_sam table": "99"}),
        "format version 99, but this package reads version 2; delete it and validate",
    ),
    "from before tables had versions": (
        lambda p: with_metadata(p, **{"mobile_sam table": None}),
        "format version 1, but this package reads version 2; delete it and validate",
    ),
    "no table": (lambda p: p.write_text("{}"), "not a validation table .*; delete it"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_another_form_are_refused_by_all_readers(name: str, tmp_path: Path) -> None:
    path, change = tmp_path / "start.parquet", TABLES[name][0]
    tables.write_table(path, [], {"thresholds": []})
    assert tables.read_metadata(path) == {"thresholds": []}
    change(path)
    readers: list[Callable[[], Any]] = [
        lambda: tables.read_metadata(path),
        lambda: tables.join_tables(tmp_path / "joined.parquet", [path]),
        lambda: read_objects(path, "start"),
    ]
    for read in readers:
        with pytest.raises(UserError, match=rf"start\.parquet: .*{TABLES[name][1]}"):
            read()
    assert tables.read_metadata_or_empty(path) == {}


RUN_FILES: dict[str, tuple[Callable[[dict[str, Any]], bytes], str]] = {
    "key of another version": (
        lambda s: json.dumps(s | {"learning_rat": 1}).encode(),
        r"unknown key 'learning_rat'; the keys are listed in configs/README\.md",
    ),
    "value of another version": (
        lambda s: json.dumps(s | {"teacher_features": "cached"}).encode(),
        r"teacher_features: Input should be 'stored' or 'online' \(it is \"cached\"\)",
    ),
    "half of it": (lambda s: json.dumps(s).encode()[:50], "line 1: not JSON"),
    "bytes": (lambda s: b"\xff\xfe\x00", "the text is in UTF-16; save it as UTF-8"),
    "a list": (lambda s: b"[]", "the file must hold one JSON object"),
}


@pytest.mark.parametrize("name", RUN_FILES)
def test_run_json_of_another_version_is_refused_and_written_anew_by_the_workflow(
    name: str, tiny: Make, scenes: Path, tmp_path: Path
) -> None:
    config = tiny()
    content, message = RUN_FILES[name]
    path = RunPaths(config).settings
    path.parent.mkdir(parents=True)
    path.write_bytes(content(tiny_settings(scenes, tmp_path)))
    with pytest.raises(UserError, match=rf"run\.json: {message}"):
        load_settings(path)
    write_settings(Runs((config,), (config,)))
    assert load_settings(path) == config
