"""Extraction: planned, resumed, shared between jobs and projects, reading and writing aside."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.digest_lookup import as_digests
from mobile_sam.data.index.table import UNLABELLED, Index
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.extraction import compute, plan
from mobile_sam.extraction.compute import extract_features
from mobile_sam.extraction.maintenance import prune_store
from mobile_sam.extraction.passes import batch_size
from mobile_sam.extraction.plan import finish_extraction, plan_extraction
from mobile_sam.features import arrays
from mobile_sam.features.arrays import open_arrays
from mobile_sam.features.identity import identity
from mobile_sam.features.locks import write_lock
from mobile_sam.features.schema import FeatureError
from mobile_sam.features.store import FeatureStore
from mobile_sam.models.student_teacher import load_teacher
from mobile_sam.paths import RunPaths
from tests.helpers.feature_stores import add_images, contents, files, make_index, same
from tests.helpers.runs import prepare, run_on_own_images, tiny_settings

Make = Callable[..., RunConfig]


@pytest.fixture
def config(tiny: Make) -> RunConfig:
    return tiny(use_distill=True)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "IMAGES_PER_SHARD", 4)


def test_a_given_store_of_another_teacher_is_not_overwritten(config: RunConfig) -> None:
    before, path = contents(config), str(RunPaths(config).features)
    other = config.model_copy(update={"seed": 5, "train_img_dir_teacher_features": path})
    with pytest.raises(FeatureError, match="does not match this run"):
        plan_extraction(other)
    assert same(contents(config), before)


def test_a_derived_store_of_a_retrained_teacher_starts_anew(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mobile_sam.features.identity.teacher_digest", lambda config: "another")
    with caplog.at_level("INFO"):
        assert plan_extraction(config) == 10
    assert "rebuilding the feature store" in caplog.text
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
    data, config = run_on_own_images(scenes, tmp_path, feature_dtype=dtype)
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


def shared_by_two(
    scenes: Path, tmp_path: Path, store: str, **changes: Any
) -> tuple[RunConfig, RunConfig]:
    """Runs of one project whose data sets differ by three images and have one store."""
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    add_images(data, 3)
    given = {"train_img_dir_teacher_features": store, "use_distill": True, **changes}
    settings = [tiny_settings(d, tmp_path / "results", **given) for d in (scenes, data)]
    first, second = (parse_config(of_run, "test") for of_run in settings)
    make_index(first)
    make_index(second)
    return first, second


@pytest.mark.usefixtures("small_shards")
def test_two_data_sets_are_extracted_into_one_store_at_a_time(scenes: Path, tmp_path: Path) -> None:
    store = tmp_path / "shared" / "neck.v2.zarr"
    first, second = shared_by_two(scenes, tmp_path, str(store))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(prepare, (first, second)))
    found = open_arrays(store, identity(first))
    assert len(found.digests()) == found.written().sum() == 13
    for config, images in ((first, 10), (second, 13)):
        paths = RunPaths(config)
        assert json.loads(paths.features_manifest.read_text())["images"] == images
        assert json.loads(paths.features_plan.read_text())["rows"] in {10, 13}
        reader, index = FeatureStore(store, identity(config)), Index(paths.index, "train")
        assert all(reader.read(index[i])["neck"].isfinite().all() for i in range(images))
    assert {path.name for path in store.parent.iterdir() if not path.name.startswith(".")} == {
        "neck.v2.zarr"
    }


def test_a_store_is_one_store_by_whatever_path_it_is_given(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, with a slash at its end, by a link: the same rows, under the same locks."""
    monkeypatch.chdir(tmp_path)
    first, second = shared_by_two(scenes, tmp_path, "disk/my.store/")
    prepare(first)
    (tmp_path / "link").symlink_to("disk/my.store")
    linked = second.model_copy(update={"train_img_dir_teacher_features": "link"})
    assert RunPaths(linked).features == tmp_path / "disk" / "my.store"
    assert plan_extraction(linked) == 3
    reading = FeatureStore(RunPaths(first).features, identity(first))
    reading.read(Index(RunPaths(first).index, "train")[0])
    with pytest.raises(FeatureError, match="another process reads or writes"):
        prune_store(linked)
    assert {path.name for path in (tmp_path / "disk").iterdir() if path.name[0] != "."} == {
        "my.store"
    }


def test_a_store_that_cannot_be_written_to_is_used_where_it_is_complete(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a colleague, or on a read-only disk."""
    store = tmp_path / "shared" / "neck.zarr"
    first, second = shared_by_two(scenes, tmp_path, str(store))
    prepare(first)
    before = {path: path.stat().st_mtime_ns for path in store.parent.rglob("*")}
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != store.parent and access(path, mode)
    )
    another = first.model_copy(update={"project_name": "another"})
    make_index(another)
    prepare(another)
    assert RunPaths(another).features_manifest.is_file()
    with pytest.raises(FeatureError, match=r"3 of 13 images have no features, and this user can"):
        plan_extraction(second)
    assert {path: path.stat().st_mtime_ns for path in store.parent.rglob("*")} == before


def test_two_plans_of_a_store_wait_for_each_other(
    config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    thread = threading.Thread(target=plan_extraction, args=(config,))
    with caplog.at_level("INFO"), write_lock(RunPaths(config).features):
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
    units = plan.format_bytes(10 * per_image)
    message = rf"features of 10 images need {units} in .*, .* are free; free some space, or choose"
    with pytest.raises(FeatureError, match=message):
        plan_extraction(config)
    assert not RunPaths(config).features.exists()
    free += 1
    assert plan_extraction(config) == 10
    assert f'"bytes_needed": {10 * per_image}' in RunPaths(config).features_plan.read_text()


def test_bytes_for_people() -> None:
    found = [plan.format_bytes(n) for n in (0, 1023, 1536, 24 * 2**20, 3 * 2**40)]
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


def planned_on_own_images(
    scenes: Path, directory: Path, num_workers: int
) -> tuple[Path, RunConfig]:
    """Copy the images, which a test may then change, and plan their extraction."""
    data, config = run_on_own_images(scenes, directory, num_workers=num_workers)
    make_index(config)
    plan_extraction(config)
    return data, config


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_reading_ends_the_extraction(
    num_workers: int, scenes: Path, tmp_path: Path
) -> None:
    data, config = planned_on_own_images(scenes, tmp_path, num_workers)
    broken = sorted((data / "train" / "image").iterdir())[4]
    broken.write_bytes(b"no image")
    with pytest.raises(Exception, match=broken.name):
        extract_features(config)


@pytest.fixture
def on_another_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets this machine compute as one with bfloat16 would say of itself."""
    return lambda: monkeypatch.setattr(compute, "fastest_precision", lambda device: "bf16-mixed")


def test_a_store_in_another_precision_is_read_and_not_filled(
    scenes: Path, tmp_path: Path, on_another_gpu: Callable[[], None]
) -> None:
    data, config = run_on_own_images(scenes, tmp_path)
    prepare(config)
    path, expected = RunPaths(config).features, identity(config)
    assert open_arrays(path, expected).group.attrs["precision"] == "32-true"
    on_another_gpu()
    assert extract_features(config) == 0
    FeatureStore(path, expected).read(Index(RunPaths(config).index, "train")[0])
    add_images(data, 1)
    make_index(config)
    plan_extraction(config)
    with pytest.raises(
        FeatureError, match="computed in 32-true, but this machine computes in bf16"
    ):
        extract_features(config)


def test_a_store_without_a_recorded_precision_is_read_and_filled(
    scenes: Path, tmp_path: Path, on_another_gpu: Callable[[], None]
) -> None:
    data, config = run_on_own_images(scenes, tmp_path)
    prepare(config)
    path, expected = RunPaths(config).features, identity(config)
    del open_arrays(path, expected, "r+").group.attrs["precision"]
    FeatureStore(path, expected).read(Index(RunPaths(config).index, "train")[0])
    add_images(data, 1)
    make_index(config)
    plan_extraction(config)
    on_another_gpu()
    assert extract_features(config) == 1
    assert open_arrays(path, expected).precision is None


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_changed_since_it_was_indexed_is_refused(
    num_workers: int, scenes: Path, tmp_path: Path
) -> None:
    """Its features would be those of other pixels under the digest of the image before."""
    data, config = planned_on_own_images(scenes, tmp_path, num_workers)
    images = sorted((data / "train" / "image").iterdir())
    shutil.copy(images[3], images[4])  # of the same size
    with pytest.raises(Exception, match=rf"{images[4].name}: the image has changed since it was"):
        extract_features(config)
    make_index(config)
    plan_extraction(config)
    extract_features(config)
    finish_extraction(config)


def test_what_is_hashed_is_what_is_decoded(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image is read once: between two reads it could change."""
    before = contents(config)
    shutil.rmtree(RunPaths(config).features)
    plan_extraction(config)
    read, opened = Path.read_bytes, Counter[str]()

    def counted(path: Path) -> bytes:
        if path.suffix == ".png":
            opened[path.name] += 1
            content = read(path)
            path.rename(path.with_name("." + path.name))
            return content
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", counted)
        try:
            extract_features(config)
        finally:
            for path in Path(str(config.train_img_dir)).glob(".*.png"):
                path.rename(path.with_name(path.name[1:]))
    assert set(opened.values()) == {1}
    assert same(contents(config), before)


class Hungry(torch.nn.Module):
    """An encoder whose memory ends at three images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError
        return images


def test_batches_are_as_large_as_memory_allows() -> None:
    meta = torch.device("meta")  # stands for a GPU: no numbers, but another type than the CPU
    assert batch_size(Hungry(), Hungry(), 64, meta) == 2


def test_sams_encoder_takes_one_image_at_once_on_a_cpu(config: RunConfig) -> None:
    cpu = torch.device("cpu")
    encoder = load_teacher(config).image_encoder
    assert batch_size(encoder, encoder, 64, cpu) == 1
    assert batch_size(Hungry(), Hungry(), 64, cpu) == 8
