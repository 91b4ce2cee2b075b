"""The store of teacher features: shared, verified, resumed, and refused when it is of others."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mobile_sam import extraction, features
from mobile_sam.config import RunConfig, parse_config
from mobile_sam.data.images import read_image
from mobile_sam.data.index import Index
from mobile_sam.data.indexing import index_dataset
from mobile_sam.data.synthetic import write_scenes
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.extraction import extract_features, finish_extraction, plan_extraction
from mobile_sam.features import FeatureError, FeatureStore, identity, open_group
from mobile_sam.layout import RunPaths
from mobile_sam.models.roles import load_teacher
from tests.conftest import prepare, tiny_settings

Make = Callable[..., RunConfig]


@pytest.fixture
def config(tiny: Make) -> RunConfig:
    return tiny(use_distill=True)


def index(config: RunConfig) -> Index:
    return Index(RunPaths(config).index, "train")


def store(config: RunConfig) -> FeatureStore:
    return FeatureStore(RunPaths(config).features, identity(config))


@pytest.mark.parametrize("level", ["neck", 1])
def test_stored_features_are_the_teachers(level: str | int, tiny: Make) -> None:
    config = tiny(use_distill=True, distill_feature_level=level)
    teacher, reader = load_teacher(config), store(config)
    for record in (index(config)[0], index(config)[9]):
        images = image_to_model_frame(read_image(record.path), 64)[None]
        with torch.no_grad():
            expected = teacher.image_encoder.features(images, level)[0]
        assert torch.allclose(reader.read(record), expected, rtol=2e-3, atol=2e-3)


def test_layout_of_the_store(config: RunConfig) -> None:
    array = open_group(RunPaths(config).features, identity(config))["features"]
    assert array.metadata.zarr_format == 3
    assert array.dtype == np.float16
    assert array.chunks == (1, 32, 4, 4)
    assert array.shards[0] == extraction.SHARD
    assert "crc32c" in str(array.metadata.to_dict()).lower()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 5}, "teacher_sha256 is 'random with seed 1' instead of 'random with seed 6'"),
        ({"teacher_model_type": "tiny_sam"}, "teacher_model_type is 'tiny_teacher_vit'"),
        ({"distill_feature_level": 2}, "level is 'neck' instead of 2"),
        ({"img_size": 128}, "img_size is 64 instead of 128"),
    ],
)
def test_a_store_of_something_else_is_refused(
    changes: dict[str, object], named: str, config: RunConfig
) -> None:
    other = config.model_copy(update=changes)
    reader = FeatureStore(RunPaths(config).features, identity(other))
    with pytest.raises(FeatureError, match=named):
        reader.read(index(config)[0])


def test_a_given_store_of_another_teacher_is_not_overwritten(
    config: RunConfig,
) -> None:
    path = str(RunPaths(config).features)
    other = config.model_copy(update={"seed": 5, "train_img_dir_teacher_features": path})
    with pytest.raises(FeatureError, match="belongs to something else"):
        plan_extraction(other)
    assert store(config).read(index(config)[0]).shape == (32, 4, 4)


def test_a_derived_store_of_a_retrained_teacher_starts_anew(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "teacher_digest", lambda config: "another")
    assert plan_extraction(config) == 10
    with pytest.raises(FeatureError, match="10 of 10 images have no features"):
        finish_extraction(config)


def test_missing_and_unfinished_stores_say_what_to_do(config: RunConfig) -> None:
    path = RunPaths(config).features
    shutil.rmtree(path)
    with pytest.raises(FeatureError, match="there is no feature store; run `extract`"):
        store(config).read(index(config)[0])
    plan_extraction(config)
    with pytest.raises(FeatureError, match=r"no features for .*; run `extract` again"):
        store(config).read(index(config)[0])


def test_a_flipped_byte_is_found(config: RunConfig) -> None:
    (shard,) = (RunPaths(config).features / "features" / "c").rglob("0/0/0/0")
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    reader, damaged = store(config), []
    for position in range(10):
        try:
            reader.read(index(config)[position])
        except FeatureError as error:
            damaged.append(str(error))
    assert len(damaged) == 1
    assert "are damaged" in damaged[0]
    assert "scene_" in damaged[0]


def test_extraction_goes_on_where_it_was_killed(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = RunPaths(config).features
    before = open_group(path, identity(config))["features"][:]
    shutil.rmtree(path)
    monkeypatch.setattr(extraction, "SHARD", 4)
    plan_extraction(config)
    write, calls = extraction.log.info, []

    def killed(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(extraction.log, "info", killed)
    with pytest.raises(KeyboardInterrupt):
        extract_features(config)
    monkeypatch.setattr(extraction.log, "info", write)
    assert extract_features(config) == 2  # of ten; two shards of four were whole
    finish_extraction(config)
    assert np.array_equal(open_group(path, identity(config))["features"][:], before)


def test_jobs_own_whole_shards_and_make_the_same_store(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = RunPaths(config).features
    before = open_group(path, identity(config))["features"][:]
    shutil.rmtree(path)
    monkeypatch.setattr(extraction, "SHARD", 4)
    plan_extraction(config)
    assert [extract_features(config, part, 2) for part in (1, 0)] == [4, 6]
    finish_extraction(config)
    assert np.array_equal(open_group(path, identity(config))["features"][:], before)


def test_added_images_are_computed_alone(scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    config = parse_config(tiny_settings(data, tmp_path / "results", use_distill=True), "test")
    prepare(config)
    first = store(config).read(index(config)[0])
    write_scenes(tmp_path / "more", 12, 64, seed=3)
    for part in ("image", "mask"):
        new = [p for p in (tmp_path / "more" / part).iterdir() if p.stem[-2:] in {"10", "11"}]
        for path in new:
            shutil.move(path, data / "train" / part / path.name)
    paths = RunPaths(config)
    index_dataset(paths.sources, paths.index)
    assert plan_extraction(config) == 2
    assert extract_features(config) == 2
    finish_extraction(config)
    assert len(index(config)) == 12
    assert torch.equal(store(config).read(index(config)[0]), first)


class Hungry(torch.nn.Module):
    """An encoder whose memory ends at three images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError
        return images


def test_batches_are_as_large_as_memory_allows() -> None:
    meta = torch.device("meta")  # stands for a GPU: no numbers, but another type than the CPU
    assert extraction.batch_size(Hungry(), 64, meta) == 2


def test_sams_encoder_takes_one_image_at_once_on_a_cpu(config: RunConfig) -> None:
    cpu = torch.device("cpu")
    assert extraction.batch_size(load_teacher(config).image_encoder, 64, cpu) == 1
    assert extraction.batch_size(Hungry(), 64, cpu) == 8
