"""Extraction: planned, resumed, shared between jobs and projects, reading and writing aside."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobile_sam.config import RunConfig, parse_config
from mobile_sam.data.digests import as_digests
from mobile_sam.data.index import UNLABELLED, Index
from mobile_sam.data.indexing import index_dataset
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.extraction import compute, plan
from mobile_sam.extraction.compute import extract_features
from mobile_sam.extraction.passes import batch_size
from mobile_sam.extraction.plan import finish_extraction, plan_extraction
from mobile_sam.features import arrays
from mobile_sam.features.arrays import open_arrays
from mobile_sam.features.identity import identity
from mobile_sam.features.locks import changing
from mobile_sam.features.parts import FeatureError
from mobile_sam.features.store import FeatureStore
from mobile_sam.layout import RunPaths
from mobile_sam.models.roles import load_teacher
from tests.conftest import prepare, tiny_settings

Make = Callable[..., RunConfig]


@pytest.fixture
def config(tiny: Make) -> RunConfig:
    return tiny(use_distill=True)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "SHARD", 4)


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


def test_a_given_store_of_another_teacher_is_not_overwritten(config: RunConfig) -> None:
    before, path = contents(config), str(RunPaths(config).features)
    other = config.model_copy(update={"seed": 5, "train_img_dir_teacher_features": path})
    with pytest.raises(FeatureError, match="belongs to something else"):
        plan_extraction(other)
    assert same(contents(config), before)


def test_a_derived_store_of_a_retrained_teacher_starts_anew(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mobile_sam.features.identity.teacher_digest", lambda config: "another")
    with caplog.at_level("INFO"):
        assert plan_extraction(config) == 10
    assert "starting the feature store anew" in caplog.text
    with pytest.raises(FeatureError, match="10 of 10 images have no features"):
        finish_extraction(config)


def test_a_store_that_somebody_reads_is_not_started_anew(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FeatureStore(RunPaths(config).features, identity(config))
    record = Index(RunPaths(config).index, "train")[0]
    reader.read(record)
    monkeypatch.setattr("mobile_sam.features.identity.teacher_digest", lambda config: "another")
    with pytest.raises(FeatureError, match="another process reads or writes the store"):
        plan_extraction(config)
    assert reader.read(record)["neck"].shape == (32, 4, 4)


def extract_command(config: RunConfig) -> list[str]:
    settings = RunPaths(config).settings
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(config.model_dump_json(exclude={"schema_file"}))
    return [sys.executable, "-m", "mobile_sam", "extract", "--config", str(settings)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_killed_it_goes_on_with_the_first_missing_shard(num_workers: int, tmp_path: Path) -> None:
    """SIGKILL after some shards; the store is then the undisturbed one, file for file."""
    data = tmp_path / "data"
    write_scenes(data / "train", 300, 64, seed=0)
    write_scenes(data / "val", 1, 64, seed=1)
    settings = tiny_settings(data, tmp_path / "killed", use_distill=True)
    killed = parse_config(settings | {"num_workers": num_workers}, "test")
    undisturbed = parse_config(settings | {"output_dir": str(tmp_path / "undisturbed")}, "test")
    prepare(undisturbed)
    make_index(killed)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(extract_command(killed), env=environment)
    store, deadline = RunPaths(killed).features, time.monotonic() + 120
    while not (store / "written" / "c" / "1").is_file():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    left = 300 - int(open_arrays(store, identity(killed)).written().sum())
    assert 0 < left <= 300 - 64
    again = subprocess.run(
        extract_command(killed), env=environment, check=True, capture_output=True, text=True
    )
    assert f"features {left}/{left}" in again.stderr
    assert files(store) == files(RunPaths(undisturbed).features)


@pytest.mark.usefixtures("small_shards")
def test_jobs_own_whole_shards_and_make_the_same_store(config: RunConfig, tiny: Make) -> None:
    before, path = contents(config), RunPaths(config).features
    shutil.rmtree(path)
    plan_extraction(config)
    assert [extract_features(config, part, 2) for part in (1, 0)] == [4, 6]
    finish_extraction(config)
    assert same(contents(config), before)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_added_images_are_computed_alone(dtype: str, scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    settings = tiny_settings(data, tmp_path / "results", use_distill=True, feature_dtype=dtype)
    config = parse_config(settings, "test")
    prepare(config)
    before = contents(config)
    add_images(data, 2)
    make_index(config)
    assert plan_extraction(config) == 2
    assert extract_features(config) == 2
    finish_extraction(config)
    after = contents(config)
    assert after["written"].sum() == 12
    for name, array in before.items():
        assert after[name][:10].tobytes() == array[:10].tobytes()


@pytest.mark.usefixtures("small_shards")
def test_images_without_masks_have_rows_in_the_same_store(
    config: RunConfig, tiny: Make, unlabelled: Path, tmp_path: Path
) -> None:
    before = contents(config)
    images = Path(shutil.copytree(unlabelled, tmp_path / "images"))
    shutil.copy(images / "scene_00000.png", images / "again.png")
    both = tiny(use_distill=True, unlabelled_img_dir=str(images), run_name="both")
    after = contents(both)
    assert RunPaths(both).features != RunPaths(config).features
    assert after["written"].sum() == len(after["digests"]) == 15
    for name in ("neck", "digests"):
        assert after[name][:10].tobytes() == before[name][:10].tobytes()
    index = Index(RunPaths(both).index, UNLABELLED)
    store = FeatureStore(RunPaths(both).features, identity(both))
    assert [index[0].image_id, index[1].image_id] == ["again", "scene_00000"]
    first, second, third = (store.read(index[i])["neck"] for i in range(3))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert plan_extraction(both) == 0
    assert f'"images": {15}' in RunPaths(both).features_manifest.read_text()


def test_an_image_without_masks_that_is_added_is_computed_alone(
    tiny: Make, unlabelled: Path, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(unlabelled, tmp_path / "images"))
    config = tiny(use_distill=True, unlabelled_img_dir=str(images))
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "new.png")
    make_index(config)
    assert plan_extraction(config) == 1
    with pytest.raises(FeatureError, match="1 of 16 images have no features"):
        finish_extraction(config)
    assert extract_features(config) == 1
    finish_extraction(config)


def test_a_plan_that_was_killed_is_made_again(config: RunConfig) -> None:
    """Arrays are enlarged one after the other; the list of images comes last."""
    before = contents(config)
    opened = open_arrays(RunPaths(config).features, identity(config), "r+")
    for name, rows in (("neck", 128), ("written", 128), ("digests", 15)):
        opened.group[name].resize((rows, *opened.group[name].shape[1:]))
    assert len(opened.digests()) == len(opened.written()) == 10
    assert plan_extraction(config) == 0
    opened.append(as_digests(b"x" * 16))
    found = {name: array[: len(before[name])] for name, array in contents(config).items()}
    assert same({**found, "digests": found["digests"][:10]}, before)
    assert opened.digests()[10].tobytes() == b"x" * 16


def test_two_projects_share_a_store(scenes: Path, tmp_path: Path) -> None:
    """Each adds its images, and neither computes those of the other."""
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    add_images(data, 3)
    given = {"train_img_dir_teacher_features": str(tmp_path / "shared.zarr"), "use_distill": True}
    first, second = (
        parse_config(tiny_settings(d, tmp_path / n, **given), "test")
        for d, n in ((scenes, "first"), (data, "second"))
    )
    prepare(first)
    make_index(second)
    assert plan_extraction(second) == 3
    assert extract_features(second) == 3
    assert plan_extraction(first) == 0
    assert len(open_arrays(tmp_path / "shared.zarr", identity(first)).used_by) == 2


def test_two_plans_of_a_store_wait_for_each_other(
    config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    thread = threading.Thread(target=plan_extraction, args=(config,))
    with caplog.at_level("INFO"), changing(RunPaths(config).features):
        thread.start()
        time.sleep(0.5)
        assert thread.is_alive()
        assert "another process changes the store (rows); waiting for it" in caplog.text
    thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("changes", "per_image"),
    [
        ({}, 32 * 16 * 2),
        ({"feature_dtype": "int8"}, 32 * (16 + 4)),
        (
            {"distill_feature_level": ["neck", 1], "feature_views": ["identity", "hflip"]},
            2 * 80 * 32,
        ),
    ],
)
def test_a_full_disk_is_noticed_before_it_begins(
    changes: dict[str, Any], per_image: int, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(**changes).model_copy(update={"use_distill": True})
    free = 10 * per_image - 1
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    units = plan.in_units(10 * per_image)
    message = rf"features of 10 images need {units} in .*, .* are free; make room, or choose"
    with pytest.raises(FeatureError, match=message):
        plan_extraction(config)
    assert not RunPaths(config).features.exists()
    free += 1
    assert plan_extraction(config) == 10
    assert f'"bytes_needed": {10 * per_image}' in RunPaths(config).features_plan.read_text()


def test_bytes_for_people() -> None:
    found = [plan.in_units(n) for n in (0, 1023, 1536, 24 * 2**20, 3 * 2**40)]
    assert found == ["0 B", "1023 B", "1.5 KiB", "24.0 MiB", "3.0 TiB"]


def test_an_error_of_the_writer_ends_the_extraction(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(RunPaths(config).features)
    plan_extraction(config)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compute, "write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        extract_features(config)
    assert not open_arrays(RunPaths(config).features, identity(config)).written().any()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_reading_ends_the_extraction(
    num_workers: int, scenes: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    settings = tiny_settings(data, tmp_path / "results", use_distill=True, num_workers=num_workers)
    config = parse_config(settings, "test")
    make_index(config)
    plan_extraction(config)
    broken = sorted((data / "train" / "image").iterdir())[4]
    broken.write_bytes(b"no image")
    with pytest.raises(Exception, match=broken.name):
        extract_features(config)


class Hungry(torch.nn.Module):
    """An encoder whose memory ends at three images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError
        return images


def test_batches_are_as_large_as_memory_allows() -> None:
    meta = torch.device("meta")  # stands for a GPU: no numbers, but another type than the CPU
    assert batch_size(Hungry(), 64, meta) == 2


def test_sams_encoder_takes_one_image_at_once_on_a_cpu(config: RunConfig) -> None:
    cpu = torch.device("cpu")
    assert batch_size(load_teacher(config).image_encoder, 64, cpu) == 1
    assert batch_size(Hungry(), 64, cpu) == 8
