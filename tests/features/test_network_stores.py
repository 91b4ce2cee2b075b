"""Feature stores on a network disk that fails: an error, and nothing is deleted."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr

from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.table import Index
from mobile_sam.extraction.maintenance import prune_store, repair_store, verify_store
from mobile_sam.extraction.plan import plan_extraction
from mobile_sam.features.identity import identity
from mobile_sam.features.schema import FeatureError
from mobile_sam.features.store import FeatureStore
from mobile_sam.paths import RunPaths
from mobile_sam.system.machine_errors import machine_fault
from mobile_sam.training.run import train_run

Make = Callable[..., RunConfig]
ERRORS = ["ETIMEDOUT", "ENOTCONN", "EREMOTEIO", "ESTALE", "EIO", "EHOSTDOWN", "EPROTO", "EAGAIN"]
# What cannot be read, by the end of its path.
PLACES = [
    "store.zarr/zarr.json",
    "neck/zarr.json",
    "digests/c/0/0",
    "written/c/0",
    "neck/c/0/0/0/0/0",
]


@pytest.fixture
def config(tiny: Make) -> RunConfig:
    config = tiny(use_distill=True)
    path = RunPaths(config).features
    path.rename(path.with_name("store.zarr"))
    path.symlink_to("store.zarr")  # as onto another disk
    return config


def failing(place: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file be read whose path ends like that."""
    original = zarr.storage._local._get

    def fail(path: Path, *arguments: Any) -> Any:
        if str(path).endswith(place):
            raise OSError(number, os.strerror(number), str(path))
        return original(path, *arguments)

    monkeypatch.setattr("zarr.storage._local._get", fail)


def content(config: RunConfig) -> dict[str, bytes]:
    """All files in the directory of the store but locks."""
    directory = RunPaths(config).features.parent
    found = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def read(config: RunConfig) -> object:
    record = Index(RunPaths(config).index, "train")[0]
    return FeatureStore(RunPaths(config).features, identity(config)).read(record)


@pytest.mark.parametrize(
    ("name", "place"),
    [(name, PLACES[0]) for name in ERRORS] + [("ETIMEDOUT", place) for place in PLACES[1:]],
)
def test_a_store_that_cannot_be_read_now_is_neither_deleted_nor_called_damaged(
    name: str, place: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(config)
    failing(place, getattr(errno, name), monkeypatch)
    acts: list[Callable[[RunConfig], object]] = [repair_store, verify_store, read]
    acts[:0] = [prune_store] if place.endswith("json") else []
    acts[:0] = [] if place.startswith("neck/c") else [plan_extraction]  # which reads no features
    for act in acts:
        with pytest.raises(OSError, match=os.strerror(getattr(errno, name))) as caught:
            act(config)
        assert name in {"EPROTO", "EAGAIN"} or machine_fault(caught.value)
        assert content(config) == before


@pytest.mark.parametrize("name", ["ETIMEDOUT", "EPROTO"])
def test_a_store_that_cannot_be_copied_now_is_not_pruned(
    name: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(config)
    monkeypatch.setattr(
        "mobile_sam.extraction.maintenance.image_digests",
        lambda index: Index(index, "train").digests()[:4],
    )
    failing("store.zarr/neck/c/0/0/0/0/0", getattr(errno, name), monkeypatch)
    with pytest.raises(OSError, match=os.strerror(getattr(errno, name))):
        prune_store(config)
    assert {k: v for k, v in content(config).items() if ".pruned" not in k} == before
    monkeypatch.undo()
    assert "nothing to prune" in prune_store(config)


@pytest.mark.parametrize("damage", ["{", "[]", None])
def test_a_damaged_store_is_left_to_its_owner(damage: str | None, config: RunConfig) -> None:
    description = RunPaths(config).features / "zarr.json"
    if damage is None:
        description.unlink()
    else:
        description.write_text(damage)
    before = content(config)
    with pytest.raises(FeatureError, match=r"store\.zarr: not a feature store, or a damaged one"):
        plan_extraction(config)
    assert content(config) == before


def test_a_link_to_a_store_stays_a_link(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of another teacher is replaced where it lies, and locked there."""
    link = RunPaths(config).dataset / "features" / f"{RunPaths(config).features_name}.zarr"
    monkeypatch.setattr("mobile_sam.features.identity.teacher_digest", lambda config: "another")
    assert plan_extraction(config) == 10
    assert link.is_symlink()
    assert (link.with_name("store.zarr") / "zarr.json").is_file()
    assert (link.parent / ".store.zarr.use.lock").is_file()
    assert [
        p.name for p in link.parent.iterdir() if ".zarr." in p.name and ".lock" not in p.name
    ] == []


@pytest.mark.parametrize("name", ["ETIMEDOUT", "EPROTO"])
def test_embeddings_that_cannot_be_read_now_are_not_computed_anew(
    name: str, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: dict[str, Any] = {"freeze": {"image_encoder": True}}
    train_run(tiny(**frozen))
    other = tiny(**frozen, learning_rate=0.01)
    (store,) = RunPaths(other).embeddings("x", "y").parent.glob("*.zarr")
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    failing(f"{store.name}/zarr.json", getattr(errno, name), monkeypatch)
    with pytest.raises(OSError, match=os.strerror(getattr(errno, name))):
        train_run(other)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
