"""Weights and arrays of others: nothing in them is executed, whatever reads them."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.data.index.build import index_dataset
from mobile_sam.data.index.cache import IndexCache
from mobile_sam.data.index.table import Index
from mobile_sam.evaluation.cost import read_model_spec
from mobile_sam.features.identity import identity
from mobile_sam.features.store import FeatureStore
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.student_teacher import load_teacher, start_student
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import UserError
from mobile_sam.training.export import export_weights
from mobile_sam.training.run import train_run
from tests.helpers.formats import SQUARE, coco_of_one
from tests.helpers.runs import TWO_STAGES

Make = Callable[..., RunConfig]
STAGES: dict[str, Any] = {"num_epochs": 4, "stage_schedule": TWO_STAGES}


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that a `Malicious` leaves: shown to work here, and not there at the end."""
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Malicious(mark)))  # noqa: S301
    assert mark.exists()
    mark.unlink()
    return mark


PICKLES: dict[str, Callable[[Path, Path], Any]] = {
    "zip": lambda path, mark: torch.save({"a": torch.zeros(1), "b": Malicious(mark)}, path),
    "legacy": lambda path, mark: torch.save(
        {"b": Malicious(mark)}, path, _use_new_zipfile_serialization=False
    ),
    "plain": lambda path, mark: path.write_bytes(pickle.dumps(Malicious(mark))),
}
# Where the file lies, and what reads it there: every place of a file of torch.
READERS: dict[str, tuple[Callable[[RunConfig], Path], Callable[[RunConfig, Path], Any]]] = {
    "checkpoint": (
        lambda c: Path(c.output_dir) / "x.pt",
        lambda c, path: start_student(c.model_copy(update={"checkpoint": str(path)})),
    ),
    "teacher_checkpoint": (
        lambda c: Path(c.output_dir) / "x.pt",
        lambda c, path: load_teacher(c.model_copy(update={"teacher_checkpoint": str(path)})),
    ),
    "compare": (lambda c: Path(c.output_dir) / "x.pt", lambda c, path: load_any(path, 64)),
    "cost": (
        lambda c: Path(c.output_dir) / "x.pt",
        lambda c, path: read_model_spec(path, 64, None),
    ),
    "resume state": (
        lambda c: RunPaths(c).state(normalise(c)[0]) / "resume.pt",
        lambda c, path: train_run(c, "00_distill"),
    ),
    "stage before": (
        lambda c: RunPaths(c).checkpoint(normalise(c)[0]),
        lambda c, path: train_run(c, "01_finetune"),
    ),
    "last stage": (
        lambda c: RunPaths(c).checkpoint(normalise(c)[1]),
        lambda c, path: export_weights(c),
    ),
}


@pytest.mark.parametrize("place", READERS)
def test_no_reader_of_weights_executes_a_pickle(place: str, tiny: Make, mark: Path) -> None:
    config = tiny(**STAGES)
    where, read = READERS[place]
    path = where(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    for make in PICKLES.values():
        make(path, mark)
        with pytest.raises(UserError, match=rf"{path.name}: (refused|not a file of torch\.save)"):
            read(config, path)
        assert not mark.exists()


def test_allowed_parts_with_wrong_arguments_are_an_error(tmp_path: Path) -> None:
    class Wrong:
        def __reduce__(self) -> tuple[Any, tuple[int]]:
            return torch._utils._rebuild_tensor_v2, (5,)

    torch.save({"a": Wrong()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: not a file of torch\.save, or a damaged one"):
        load_any(tmp_path / "x.pt", 64)


def npy_header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<u8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


LABEL_MAPS: dict[str, Callable[[Path, Path], Any]] = {
    "objects": lambda p, mark: np.save(p, np.array([[Malicious(mark)]], dtype=object)),
    "a pickle": lambda p, mark: p.write_bytes(pickle.dumps(Malicious(mark))),
    "an archive": lambda p, mark: np.savez(p.open("wb"), np.zeros((64, 64))),
    "a size of petabytes": lambda p, mark: p.write_bytes(npy_header((1 << 25, 1 << 25))),
    "texts": lambda p, mark: np.save(p, np.full((64, 64), "a")),
    "records": lambda p, mark: np.save(p, np.zeros((64, 64), dtype=[("a", "O")])),
    "code as header": lambda p, mark: p.write_bytes(
        npy_header((64, 64)).replace(b"(64, 64)", b"open(64)")
    ),
}


@pytest.mark.parametrize("name", LABEL_MAPS)
def test_hostile_arrays_are_refused(name: str, mark: Path, tmp_path: Path) -> None:
    sources = coco_of_one(tmp_path, SQUARE)
    (tmp_path / "masks").mkdir()
    LABEL_MAPS[name](tmp_path / "masks" / "a.npy", mark)
    sources = {split: (images, tmp_path / "masks") for split, (images, _) in sources.items()}
    with pytest.raises(UserError, match=r"a\.npy: the (mask cannot|mask holds|file holds Py)"):
        index_dataset(sources, tmp_path / "index.parquet")
    assert not mark.exists()


def test_stamps_of_a_kept_index_are_not_executed(tiny: Make, mark: Path, tmp_path: Path) -> None:
    paths, kept = RunPaths(tiny()), tmp_path / "kept.parquet"
    index_dataset(paths.sources, paths.index, kept=kept)
    (path,) = tmp_path.glob("kept.*.npz")
    with np.load(path) as content:
        stamps = content["stamps"].tolist()
    assert all(stamp in IndexCache(kept) for stamp in stamps)
    np.savez(path, stamps=np.array([Malicious(mark)], dtype=object))
    assert not any(stamp in IndexCache(kept) for stamp in stamps)
    assert not mark.exists()


# An array of the second format of Zarr, whose chunks are pickles.
V2 = {
    **{"zarr_format": 2, "shape": [1, 1, 32, 4, 4], "chunks": [1, 1, 32, 4, 4], "dtype": "|O"},
    **{"compressor": None, "fill_value": 0, "order": "C", "dimension_separator": "."},
    "filters": [{"id": "pickle", "protocol": 5}],
}


def with_array(store: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = store / "neck" / "zarr.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def second_format(store: Path) -> None:
    (store / "neck" / "zarr.json").unlink()
    (store / "neck" / ".zarray").write_text(json.dumps(V2))


def consolidated(store: Path) -> None:
    content = json.loads((store / "zarr.json").read_text())
    arrays = {"neck": V2 | {"attributes": {}, "node_type": "array"}}
    content["consolidated_metadata"] = {"kind": "inline", "must_understand": False}
    content["consolidated_metadata"]["metadata"] = arrays
    (store / "zarr.json").write_text(json.dumps(content))
    second_format(store)


def as_group(content: dict[str, Any]) -> None:
    content.clear()
    content.update({"zarr_format": 3, "node_type": "group", "attributes": {}})


ARRAYS: dict[str, Callable[[Path], Any]] = {
    "second format": second_format,
    "second format, consolidated": consolidated,
    "codec of pickles": lambda s: with_array(
        s, lambda c: c.update(codecs=[{"name": "numcodecs.pickle", "configuration": {}}])
    ),
    "texts": lambda s: with_array(
        s, lambda c: c.update(data_type="string", fill_value="", codecs=[{"name": "vlen-utf8"}])
    ),
    "other numbers": lambda s: with_array(s, lambda c: c.update(data_type="float64")),
    "other shape": lambda s: with_array(s, lambda c: c.update(shape=[64, 1, 1 << 40, 4, 4])),
    "a group": lambda s: with_array(s, as_group),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_hostile_stores_are_refused(name: str, tiny: Make, mark: Path) -> None:
    config = tiny(use_distill=True)
    paths = RunPaths(config)
    record = Index(paths.index, "train")[0]
    FeatureStore(paths.features, identity(config)).read(record)
    ARRAYS[name](paths.features)
    for key in ("0.0.0.0.0", "c/0/0/0/0/0"):
        (paths.features / "neck" / key).parent.mkdir(parents=True, exist_ok=True)
        (paths.features / "neck" / key).write_bytes(pickle.dumps(Malicious(mark)))
    with pytest.raises(UserError, match=r"\.zarr: .*'neck'.*; delete it or set"):
        FeatureStore(paths.features, identity(config)).read(record)
    assert not mark.exists()
