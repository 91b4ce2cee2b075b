"""The verb `features`: damage is named and repaired, and what no index has is dropped."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from mobile_sam.__main__ import main
from mobile_sam.config.run import RunConfig
from mobile_sam.data.index.table import Index
from mobile_sam.extraction import maintenance
from mobile_sam.extraction.compute import extract_features
from mobile_sam.extraction.maintenance import repair_store, size_on_disk, store_info, verify_store
from mobile_sam.extraction.plan import plan_extraction
from mobile_sam.features.identity import identity
from mobile_sam.features.locks import acquire_shared_lock
from mobile_sam.features.schema import FeatureError
from mobile_sam.features.store import FeatureStore
from mobile_sam.paths import RunPaths
from tests.helpers.commands import verb
from tests.helpers.feature_stores import (
    add_images,
    contents,
    damage,
    files,
    make_index,
    same,
    shard_file,
)
from tests.helpers.runs import prepare, run_on_own_images

Make = Callable[..., RunConfig]


@pytest.fixture
def config(tiny: Make) -> RunConfig:
    return tiny(use_distill=True, distill_feature_level=["neck", 1])


@pytest.fixture
def shrunk(scenes: Path, tmp_path: Path) -> RunConfig:
    """A run whose store has two images that are no longer in its index."""
    data, config = run_on_own_images(scenes, tmp_path)
    add_images(data, 2)
    prepare(config)
    for image in ("scene_00000", "scene_00004"):
        (data / "train" / "image" / f"{image}.png").unlink()
        shutil.rmtree(data / "train" / "mask" / image)
    make_index(config)
    return config


def saved(config: RunConfig) -> Path:
    path = RunPaths(config).settings
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json(exclude={"schema_file"}))
    return path


def features_of_index(config: RunConfig) -> list[torch.Tensor]:
    store = FeatureStore(RunPaths(config).features, identity(config))
    index = Index(RunPaths(config).index, "train")
    return [store.read(index[i])["neck"] for i in range(len(index))]


def test_a_sound_store_is_verified(config: RunConfig) -> None:
    result = verb("features", "--config", saved(config), "--verify")
    assert result.returncode == 0, result.stderr
    assert "all 10 images can be read" in result.stdout


def test_damage_is_named_and_the_status_is_1(config: RunConfig) -> None:
    damage(shard_file(config, "block_1"), "flipped")
    result = verb("features", "--config", saved(config), "--verify")
    assert result.returncode == 1
    assert "1 of 10 images are damaged" in result.stderr
    assert "identity of block_1: Stored and computed checksum do not match" in result.stderr
    assert str(Index(RunPaths(config).index, "train")[0].path) in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize(("how", "images"), [("flipped", 1), ("cut", 10), ("removed", 10)])
def test_repair_computes_what_is_damaged(how: str, images: int, dtype: str, tiny: Make) -> None:
    config = tiny(use_distill=True, distill_feature_level=["neck", 1], feature_dtype=dtype)
    before = files(RunPaths(config).features)
    damage(shard_file(config), how)
    said = repair_store(config)
    assert f"damaged images: {images}, computed again: {images}" in said
    assert "all 10 images" in verify_store(config)
    assert files(RunPaths(config).features) == before


def test_repair_leaves_a_sound_store_alone(config: RunConfig) -> None:
    before = files(RunPaths(config).features)
    assert "damaged images: 0, computed again: 0" in repair_store(config)
    assert files(RunPaths(config).features) == before


def test_a_damaged_neighbour_is_not_copied_into_a_new_shard(scenes: Path, tmp_path: Path) -> None:
    data, config = run_on_own_images(scenes, tmp_path)
    prepare(config)
    damage(shard_file(config), "flipped")
    add_images(data, 1)
    make_index(config)
    assert plan_extraction(config) == 1
    with pytest.raises(FeatureError, match=r"row 0, .* is damaged .*; run .* features --repair"):
        extract_features(config)
    assert "damaged images: 1, computed again: 2" in repair_store(config)


def test_info_says_what_there_is(shrunk: RunConfig) -> None:
    result = verb("features", "--config", saved(shrunk), "--info")
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["teacher"] == "random (tiny_teacher_vit), sha256 random with seed 1"
    assert lines["levels"] == "neck 32x4x4"
    assert lines["images"] == "10 of the 10 in the index, 0 missing"
    assert lines["others"].startswith("2 images")
    assert "1.0 KiB an image" in result.stdout
    plan_extraction(shrunk.model_copy(update={"seed": 3}))
    assert "0 of the 10 in the index, 10 missing" in store_info(
        shrunk.model_copy(update={"seed": 3})
    )


@pytest.mark.parametrize("shard", [4, 64])
def test_prune_drops_what_no_index_has(
    shard: int, shrunk: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobile_sam.features.arrays.IMAGES_PER_SHARD", shard)
    path = RunPaths(shrunk).features
    before, features = size_on_disk(path), features_of_index(shrunk)
    result = verb("features", "--config", saved(shrunk), "--prune")
    assert result.returncode == 0, result.stderr
    assert "2 of 12 images dropped, " in result.stdout
    assert f"{(before - size_on_disk(path)) / 1024:.1f} KiB freed" in result.stdout
    assert before - size_on_disk(path) >= 2 * 1024
    for old, new in zip(features, features_of_index(shrunk), strict=True):
        assert torch.equal(old, new)
    assert plan_extraction(shrunk) == 0
    assert "nothing to prune" in maintenance.prune_store(shrunk)
    assert [
        p.name for p in path.parent.iterdir() if ".zarr." in p.name and "lock" not in p.name
    ] == []


def test_prune_keeps_what_another_project_needs(shrunk: RunConfig, tmp_path: Path) -> None:
    given = {"train_img_dir_teacher_features": str(RunPaths(shrunk).features)}
    first = shrunk.model_copy(update={"output_dir": str(tmp_path / "first"), **given})
    make_index(first)
    data = Path(str(shrunk.train_img_dir)).parents[1]
    add_images(data, 3)
    make_index(shrunk)
    prepare(shrunk)
    before = contents(shrunk)
    plan_extraction(first)
    assert "2 of 13 images dropped" in maintenance.prune_store(
        first
    )  # and not the three of the other
    features_of_index(shrunk)
    assert len(contents(shrunk)["digests"]) == len(before["digests"]) - 2


def not_mounted(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(index.parents[3])


def cut_off(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.write_bytes(index.read_bytes()[:500])


def timed_out(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pq.ParquetFile

    def fail(path: Path, **options: Any) -> pq.ParquetFile:
        if path == index:
            raise OSError(errno.ETIMEDOUT, "Connection timed out")
        return original(path, **options)

    monkeypatch.setattr(pq, "ParquetFile", fail)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (not_mounted, "there is no index"),
        (cut_off, "not an index, or a damaged one"),
        (timed_out, "the network disk does not answer"),
    ],
)
def test_prune_drops_nothing_while_an_index_cannot_be_read(
    change: Callable[[Path, pytest.MonkeyPatch], None],
    reason: str,
    shrunk: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"train_img_dir_teacher_features": str(RunPaths(shrunk).features)}
    other = shrunk.model_copy(update={"output_dir": str(tmp_path / "other"), **given})
    make_index(other)
    plan_extraction(other)
    index = RunPaths(other).index
    change(index, monkeypatch)
    before = contents(shrunk)
    with pytest.raises(FeatureError, match="nothing was dropped, because an index") as caught:
        maintenance.prune_store(shrunk)
    assert f"{index}: {reason}" in str(caught.value)
    assert f"add --forget {index}" in str(caught.value)
    assert same(contents(shrunk), before)
    command = ["features", "--config", str(saved(shrunk)), "--forget", str(index)]
    assert main([*command, "--info"]) == 1
    assert main([*command, "--prune"]) == 0
    assert "nothing to prune" in maintenance.prune_store(shrunk)  # the other is no longer known


def test_prune_waits_for_nobody_who_reads(shrunk: RunConfig) -> None:
    reading = acquire_shared_lock(RunPaths(shrunk).features)
    with pytest.raises(FeatureError, match="another process reads or writes the store"):
        maintenance.prune_store(shrunk)
    assert reading is not None
    reading.close()
    assert "2 of 12" in maintenance.prune_store(shrunk)


@pytest.mark.parametrize("step", ["copying", "between", "after"])
def test_a_killed_prune_loses_nothing(
    step: str, shrunk: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = features_of_index(shrunk)
    path = RunPaths(shrunk).features

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if step == "copying":
            patched.setattr(maintenance, "register_index", killed)
        elif step == "between":
            rename = Path.rename
            patched.setattr(
                Path,
                "rename",
                lambda a, b: killed() if a.name.endswith(".pruned") and b == path else rename(a, b),
            )
        else:
            removing = shutil.rmtree
            patched.setattr(
                maintenance.shutil, "rmtree", lambda p, **o: removing(p, **o) if o else killed()
            )
        maintenance.prune_store(shrunk)
    assert path.exists() == (step != "between")
    assert plan_extraction(shrunk) == 0
    for old, new in zip(features, features_of_index(shrunk), strict=True):
        assert torch.equal(old, new)
    assert "freed" in maintenance.prune_store(shrunk) or step == "after"


def test_images_without_masks_are_looked_after_as_well(
    tiny: Make, unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobile_sam.features.arrays.IMAGES_PER_SHARD", 4)
    images = Path(shutil.copytree(unlabelled, tmp_path / "images"))
    config = tiny(use_distill=True, unlabelled_img_dir=str(images))
    before = files(RunPaths(config).features)
    assert "15 of the 15 in the index, 0 missing" in store_info(config)
    assert "all 15 images" in verify_store(config)
    assert "nothing to prune" in maintenance.prune_store(config)
    (RunPaths(config).features / "neck" / "c" / "3" / "0" / "0" / "0" / "0").unlink()
    with pytest.raises(FeatureError, match=r"3 of 15 images are damaged(.|\n)*images/scene_00004"):
        verify_store(config)
    assert "damaged images: 3, computed again: 3" in repair_store(config)
    assert files(RunPaths(config).features) == before
    for number in (1, 3):
        (images / f"scene_0000{number}.png").unlink()
    make_index(config)
    assert "2 of 15 images dropped" in maintenance.prune_store(config)
    assert "all 13 images" in verify_store(config)
    assert plan_extraction(config) == 0


def test_a_run_without_a_store_has_nothing_to_look_after(tiny: Make) -> None:
    result = verb("features", "--config", saved(tiny()), "--info")
    assert result.returncode == 1
    assert "no stage distils from stored features" in result.stderr
    assert verb("features", "--config", saved(tiny())).returncode == 2
