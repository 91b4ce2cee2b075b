"""The store of teacher features: several levels and views, verified, shared, refused."""

import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
import zarr

from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import level_name
from mobile_sam.data.images import read_image
from mobile_sam.data.index.table import Index
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.extraction.plan import plan_extraction
from mobile_sam.features import arrays
from mobile_sam.features.arrays import open_arrays
from mobile_sam.features.encoding import decode, encode, to_arrays
from mobile_sam.features.identity import identity
from mobile_sam.features.schema import FeatureError
from mobile_sam.features.store import FeatureStore
from mobile_sam.models.student_teacher import load_teacher
from mobile_sam.paths import RunPaths
from tests.helpers.feature_stores import damage, shard_file

Make = Callable[..., RunConfig]


@pytest.fixture
def config(tiny: Make) -> RunConfig:
    return tiny(use_distill=True)


def index(config: RunConfig) -> Index:
    return Index(RunPaths(config).index, "train")


def store(config: RunConfig) -> FeatureStore:
    return FeatureStore(RunPaths(config).features, identity(config))


@pytest.mark.parametrize("levels", ["neck", 1, ["neck", 1], [0, 2]])
@pytest.mark.parametrize("views", [["identity"], ["identity", "hflip"]])
def test_stored_features_are_the_teachers(levels: object, views: list[str], tiny: Make) -> None:
    config = tiny(use_distill=True, distill_feature_level=levels, feature_views=views)
    teacher, reader = load_teacher(config), store(config)
    for record in (index(config)[0], index(config)[9]):
        for view in views:
            pixels = read_image(record.path)
            seen = pixels if view == "identity" else np.ascontiguousarray(pixels[:, ::-1])
            images = image_to_model_frame(seen, 64)[None]
            with torch.no_grad():
                expected = teacher.image_encoder.features(images, config.distill_levels)
            found = reader.read(record, view)
            assert list(found) == [level_name(level) for level in config.distill_levels]
            for name, features in found.items():
                assert torch.equal(features, expected[name][0].half())


def test_one_level_is_stored_the_same_alone_and_among_others(tiny: Make) -> None:
    alone = tiny(use_distill=True)
    among = tiny(use_distill=True, distill_feature_level=[2, "neck"], feature_views=["identity"])
    for position in range(10):
        first = store(alone).read(index(alone)[position])
        second = store(among).read(index(among)[position])
        assert torch.equal(first["neck"], second["neck"])


def test_a_view_that_is_not_stored_says_which_key_to_set(config: RunConfig) -> None:
    with pytest.raises(FeatureError, match=r"set feature_views to \['identity', 'hflip'\]"):
        store(config).read(index(config)[0], "hflip")


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_layout_of_the_store(dtype: str, tiny: Make) -> None:
    config = tiny(
        use_distill=True,
        distill_feature_level=["neck", 1],
        feature_dtype=dtype,
        feature_views=["identity", "hflip"],
    )
    opened = open_arrays(RunPaths(config).features, identity(config))
    assert opened.levels == ["neck", "block_1"]
    for level, channels in (("neck", 32), ("block_1", 48)):
        array = opened.group[level]
        assert array.metadata.zarr_format == 3
        assert array.dtype == dtype
        assert array.shape == (arrays.IMAGES_PER_SHARD, 2, channels, 4, 4)
        assert array.chunks == (1, 1, channels, 4, 4)
        assert array.shards == (arrays.IMAGES_PER_SHARD, 2, channels, 4, 4)
        assert (f"{level}_scale" in opened.group) == (dtype == "int8")
    for _, array in opened.group.arrays():
        assert "crc32c" in str(array.metadata.to_dict()).lower()


def test_int8_is_the_nearest_of_255_steps_of_each_channel() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 4) * torch.tensor([1.0, 100.0, 0.0])[:, None, None]
    stored = to_arrays(encode(features, "int8"))
    assert stored[""].dtype == np.int8
    assert np.abs(stored[""]).max() == 127
    step = features.abs().amax((-2, -1), keepdim=True) / 127
    rounding = features.abs() * 2**-11  # of the float16 that is handed out
    assert ((decode(stored, "int8") - features).abs() <= step / 2 + rounding + 1e-6).all()


def test_int8_features_are_close_to_the_teachers(tiny: Make) -> None:
    exact, rounded = tiny(use_distill=True), tiny(use_distill=True, feature_dtype="int8")
    for position in range(3):
        record = index(exact)[position]
        first, second = (store(c).read(record)["neck"].float() for c in (exact, rounded))
        assert torch.cosine_similarity(first, second, dim=0).min() > 0.999
        assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_features_that_are_not_finite_are_an_error(dtype: str, value: float) -> None:
    features = torch.ones(1, 2, 4, 4)
    features[0, 1, 2, 3] = value
    with pytest.raises(FeatureError, match="not finite"):
        to_arrays(encode(features, dtype))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_features_beyond_float16_are_an_error(dtype: str) -> None:
    with pytest.raises(FeatureError, match="too large"):
        to_arrays(encode(torch.full((1, 2, 4, 4), 70000.0), dtype))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 5}, "teacher_sha256 is 'random with seed 1' instead of 'random with seed 6'"),
        ({"teacher_model_type": "tiny_sam"}, "teacher_model_type is 'tiny_teacher_vit'"),
        ({"distill_feature_level": 2}, r"levels is \['neck'\] instead of \[2\]"),
        ({"img_size": 128}, "img_size is 64 instead of 128"),
        ({"feature_dtype": "int8"}, "dtype is 'float16' instead of 'int8'"),
        ({"feature_views": ("identity", "hflip")}, r"views is \['identity'\]"),
    ],
)
def test_a_store_of_something_else_is_refused(
    changes: dict[str, object], named: str, config: RunConfig
) -> None:
    other = config.model_copy(update=changes)
    reader = FeatureStore(RunPaths(config).features, identity(other))
    with pytest.raises(FeatureError, match=named):
        reader.read(index(config)[0])


def test_missing_and_unfinished_stores_say_what_to_do(config: RunConfig) -> None:
    path = RunPaths(config).features
    shutil.rmtree(path)
    with pytest.raises(FeatureError, match="there is no feature store; run `extract`"):
        store(config).read(index(config)[0])
    plan_extraction(config)
    with pytest.raises(FeatureError, match=r"no features for .*; run `extract` again"):
        store(config).read(index(config)[0])


def damaged_images(config: RunConfig) -> list[str]:
    """What reading says of each image that cannot be read."""
    reader, found = store(config), []
    for position in range(10):
        try:
            reader.read(index(config)[position])
        except FeatureError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("array", ["neck", "neck_scale", "block_1"])
@pytest.mark.parametrize(("how", "images"), [("flipped", 1), ("cut", 10), ("removed", 10)])
def test_damage_is_found_on_reading(array: str, how: str, images: int, tiny: Make) -> None:
    config = tiny(use_distill=True, distill_feature_level=["neck", 1], feature_dtype="int8")
    damage(shard_file(config, array), how)
    found = damaged_images(config)
    assert len(found) == images
    for message in found:
        assert "scene_" in message
        assert "are damaged" in message
        assert "run `python -m mobile_sam features --repair`" in message


def test_a_removed_file_of_float16_is_not_read_as_zeros(config: RunConfig) -> None:
    damage(shard_file(config), "removed")
    found = damaged_images(config)
    assert len(found) == 10
    assert "a file is missing" in found[0]


def test_a_damaged_list_of_images_is_named(config: RunConfig) -> None:
    damage(shard_file(config, "digests"), "flipped")
    with pytest.raises(FeatureError, match="the list of images is damaged"):
        store(config).read(index(config)[0])


def test_a_store_in_a_place_that_cannot_be_written_to_is_read(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mobile_sam.features.locks._open_lock_file", refuse)
    assert store(config).read(index(config)[0])["neck"].shape == (32, 4, 4)


def test_an_older_format_is_refused(config: RunConfig) -> None:
    group = zarr.open_group(RunPaths(config).features, mode="r+")
    group.attrs["version"] = 1
    with pytest.raises(FeatureError, match="version is 1 instead of 2"):
        store(config).read(index(config)[0])
