"""Where results go: every key of place, data and execution has its effect."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.config.catalog import KnownCheckpoint
from mobile_sam.config.load import resolve
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig, affects
from mobile_sam.config.schedule import needs_features
from mobile_sam.config.sections import Data, Synthetic
from mobile_sam.download import files as fetch
from mobile_sam.paths import RunPaths, comparable_runs, comparison_directory, feature_key
from mobile_sam.pipeline import inputs
from mobile_sam.pipeline.inputs import check_inputs
from mobile_sam.pipeline.settings_files import shared_settings
from mobile_sam.system.errors import ConfigError
from tests.helpers.runs import directories

DISTILLING = {
    "use_distill": True,
    "teacher_checkpoint": "random",
    "teacher_model_type": "tiny_teacher_vit",
    "distill_feature_level": 2,
}
BASE = resolve("distill_then_finetune", "tiny", {}).named[0]


def paths(**changes: Any) -> RunPaths:
    return RunPaths(BASE.model_copy(update=changes))


PLACES: dict[str, tuple[Any, Callable[[RunPaths], object]]] = {
    "project_name": ("other", lambda p: p.project),
    "run_name": ("other", lambda p: p.run),
    "output_dir": ("other", lambda p: p.project),
    "synthetic": (BASE.synthetic.model_copy(update={"train": 5}), lambda p: p.index),
    "train_img_dir": ("other", lambda p: p.image_dir("train")),
    "train_mask_dir": ("other", lambda p: p.mask_dir("train")),
    "val_img_dir": ("other", lambda p: p.image_dir("val")),
    "val_mask_dir": ("other", lambda p: p.mask_dir("val")),
    "unlabelled_img_dir": ("other", lambda p: p.index),
    "data": (Data(min_area=5), lambda p: p.index),
    "train_img_dir_teacher_features": ("other.zarr", lambda p: p.features),
}


@pytest.mark.parametrize("key", PLACES)
def test_each_key_of_place_and_data_changes_a_path(key: str) -> None:
    value, look = PLACES[key]
    assert look(paths(**{key: value})) != look(paths())


GIVEN = ["neck.v1.zarr", "neck.v2.zarr", "my.store", "my.other", "mine", "d1/a.zarr", "d2/a.zarr"]


def beside_the_index(of: RunPaths) -> list[Path]:
    return [of.features_plan, of.features_part(0), of.features_manifest, of.features_settings]


def test_each_store_has_files_of_its_own_beside_each_index() -> None:
    stores: list[str | None] = [*GIVEN, None]
    of = [
        paths(train_img_dir_teacher_features=store, data=data, feature_dtype=dtype)
        for store in stores
        for data in (Data(), Data(min_area=5))
        for dtype in ("float16", "int8")
    ]
    files = [path for one in of for path in beside_the_index(one)]
    assert len(set(files)) == len(files) == 4 * len(of)
    assert all(
        path.parent == one.dataset / "features" for one in of for path in beside_the_index(one)
    )
    names = [of_store.features_manifest.name for of_store in of]
    assert all(any(name.startswith(store.split("/")[-1]) for name in names) for store in GIVEN)


def test_the_files_of_a_derived_store_lie_where_they_always_lay() -> None:
    """Otherwise existing features would be planned, and stages trained, once more."""
    of = paths(distill_feature_level=("neck", 2))
    assert of.features.suffix == ".zarr"
    assert beside_the_index(of) == [
        of.features.with_suffix(end)
        for end in (".plan.json", ".part0of1.json", ".json", ".settings.json")
    ]


@pytest.mark.parametrize("spelling", ["d1/a.zarr/", "./d1/a.zarr", "d1//a.zarr", "d2/../d1/a.zarr"])
def test_other_spellings_of_a_path_are_one_store(spelling: str) -> None:
    of, same = (paths(train_img_dir_teacher_features=path) for path in ("d1/a.zarr", spelling))
    assert beside_the_index(of) == beside_the_index(same)


def test_every_key_has_a_test_of_its_effect() -> None:
    here = {k for k in RunConfig.model_fields if affects(k) in {"place", "data"}}
    assert set(PLACES) == here - {"schema_file"} | {"train_img_dir_teacher_features"}
    # tests/training/test_stage.py, tests/evaluation/test_validate_run.py and tests/workflow have
    # the rest.
    rest = {
        k for k in RunConfig.model_fields if affects(k) in {"validation", "report", "execution"}
    }
    assert rest == {
        "mask_threshold",  # test_the_threshold_binarises_the_logits
        "protocols",  # test_only_the_protocols_asked_for_are_measured
        "click_objects",  # test_clicks_are_on_a_sample_of_many_objects
        "thresholds",  # test_the_runs_own_threshold_is_swept
        "automatic_images",  # test_some_images_are_segmented_without_prompts
        "automatic_points",  # test_some_images_are_segmented_without_prompts
        "detections",  # test_detections.py
        "compare",  # test_other_weights_are_measured_beside
        "validate_jobs",  # test_jobs_that_share_a_validation_write_the_bytes_of_one
        "benchmark_repeats",  # test_cost_is_measured_as_often_as_is_asked_for
        "use_checkpoint",  # test_what_is_validated_and_exported_is_chosen
        "report_examples",  # test_the_number_of_examples_is_a_setting
        "num_workers",  # test_workers_read_the_samples
        "save_every_minutes",  # test_killed_in_stage_2_ends_in_the_same_weights
        "extract_jobs",  # test_extract_jobs_is_the_number_of_jobs
        "devices",  # test_two_processes_learn_what_one_learns
        "num_nodes",  # test_slurm_starts_the_processes_of_several_tasks
        "recompute_encoder",  # test_recompute.py
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher_checkpoint": "a/b.pt"},
        {"teacher_checkpoint": "run:x"},
        {"distill_feature_level": 2},
        {"distill_feature_level": ("neck", 2)},
        {"feature_dtype": "int8"},
        {"feature_views": ("identity", "hflip")},
        {"img_size": 128},
    ],
)
def test_features_of_something_else_go_elsewhere(changes: dict[str, Any]) -> None:
    assert feature_key(BASE.model_copy(update=changes)) != feature_key(BASE)


def test_the_name_of_a_store_of_one_level_stays() -> None:
    assert feature_key(BASE.model_copy(update={"distill_feature_level": 2})).endswith(
        "-2-64px-float16"
    )


def test_features_online_are_not_stored() -> None:
    assert needs_features(BASE)
    assert not needs_features(BASE.model_copy(update={"teacher_features": "online"}))


def test_features_of_another_random_teacher_go_elsewhere() -> None:
    random = BASE.model_copy(update={"teacher_checkpoint": "random"})
    keys = {
        feature_key(random.model_copy(update=changes))
        for changes in ({}, {"seed": 3}, {"teacher_model_type": "demo_teacher"})
    }
    assert len(keys) == 3


def test_names_of_paths_that_clean_up_alike_stay_apart() -> None:
    keys = {feature_key(BASE.model_copy(update={"teacher_checkpoint": n})) for n in ("a b", "a_b")}
    assert len(keys) == 2


def test_settings_of_shared_jobs_hold_nothing_of_the_run() -> None:
    other = BASE.model_copy(update={"run_name": "other", "batch_size": 3, "learning_rate": 0.5})
    assert shared_settings(other) == shared_settings(BASE)


OPTIONS = {
    "min_area": 5,
    "max_objects_per_image": 5,
    "classes": ["a"],
    "ignore": [255],
    "subset": "ids.txt",
    "max_broken": 3,
    "bands": [3, 2, 1],
    "intensity": [0, 4095],
    "exif_orientation": "ignore",
    "max_megapixels": 9,
    "soft_masks": 0.5,
    "read_masks_by": "number",
    "split_components": True,
    "crowds": "objects",
    "unannotated": "empty",
    "groups": "^(.)",
    "tile": {"size": 512},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_of_the_data_has_an_index_of_its_own(option: str) -> None:
    """Their effects on the index are in tests/data/test_indexing.py."""
    assert paths(data=Data(**{option: OPTIONS[option]})).index != paths().index


def test_data_split_by_fraction_has_an_index_for_each_split(scenes: Path) -> None:
    def index(**changes: Any) -> Path:
        given = directories(scenes) | {"val_img_dir": None, "val_mask_dir": None} | changes
        return RunPaths(resolve("mobileSAM", None, given).named[0]).index

    no_content = {"val_fraction", "split_seed", "revision", "duplicates", "fold"}
    assert set(OPTIONS) | no_content == set(Data.model_fields)
    others = {index(data={"val_fraction": 0.2}), index(data={"split_seed": 1})}
    others |= {index(data={"fold": {"number": number, "of": 2}}) for number in range(2)}
    assert len({index()} | others) == 5
    assert index(seed=1) == index()
    assert paths(data=Data(split_seed=1)).index == paths().index  # there is nothing to split


@pytest.mark.parametrize("missing", ["val_img_dir", "val_mask_dir", "train_mask_dir"])
def test_places_of_data_go_together(missing: str, scenes: Path) -> None:
    with pytest.raises(ConfigError, match="go together: set all four, or the two of training"):
        resolve("mobileSAM", None, directories(scenes) | {missing: None})


def test_places_that_are_missing_are_named(scenes: Path, tmp_path: Path) -> None:
    given: dict[str, object] = {**directories(scenes), "checkpoint": None}
    given |= {"data": {"subset": "nowhere.txt"}}
    given |= {"val_mask_dir": str(tmp_path / "instances.json"), "train_img_dir": "nowhere"}
    given |= {"unlabelled_img_dir": "elsewhere", **DISTILLING}
    with pytest.raises(ConfigError) as caught:
        check_inputs(resolve("mobileSAM", None, given))
    message = str(caught.value)
    assert "train_img_dir: 'nowhere' is not a directory" in message
    assert "instances.json' is neither a directory nor a COCO file" in message
    assert "data.subset: there is no file 'nowhere.txt'" in message
    assert "unlabelled_img_dir: 'elsewhere' is not a directory; put images without" in message


@pytest.mark.parametrize("name", ["distill_then_finetune", "nuclei"])
def test_images_without_masks_are_looked_for_beside_any_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "check_available", lambda dataset: None)
    overlay = "tiny" if name == "distill_then_finetune" else None
    given = {"unlabelled_img_dir": "elsewhere", "checkpoint": None, **DISTILLING}
    given |= {"model_type": "tiny_sam", "img_size": 64}
    with pytest.raises(ConfigError, match="unlabelled_img_dir: 'elsewhere' is not a directory"):
        check_inputs(resolve(name, overlay, given))
    check_inputs(resolve(name, overlay, given | {"unlabelled_img_dir": str(tmp_path)}))


def test_places_stay_where_there_are_no_images_without_masks(scenes: Path) -> None:
    drawn = paths(unlabelled_img_dir="other").dataset.name
    assert paths().dataset.name == "synthetic-12-4-64px-seed0"
    assert drawn.startswith("synthetic-12-4-64px-seed0-")
    own = {"train_img_dir": "/d/t", "train_mask_dir": "/d/m"}
    own |= {"val_img_dir": "/d/v", "val_mask_dir": "/d/w"}
    assert paths(**own).dataset.name == "t-379c9781"
    assert set(paths(**own).sources) == {"train", "val"}
    assert paths(**own, unlabelled_img_dir="/d/u").sources["unlabelled"] == (Path("/d/u"),)


def test_scenes_of_cells_have_a_place_of_their_own() -> None:
    cells = BASE.synthetic.model_copy(update={"objects": "cells"})
    assert paths(synthetic=cells).dataset.name == "synthetic-cells-12-4-64px-seed0"


def test_settings_of_shared_jobs_name_images_without_masks() -> None:
    config = BASE.model_copy(update={"unlabelled_img_dir": "other"})
    of = shared_settings(config)
    assert len(of) == 2
    assert {settings["unlabelled_img_dir"] for settings in of.values()} == {"other"}
    job = parse_config(json.loads(json.dumps(of[RunPaths(config).dataset_settings])), "dataset")
    assert RunPaths(job).index == RunPaths(config).index


@pytest.mark.parametrize(
    "changes",
    [
        {"distill_feature_level": ("neck", 2)},
        {"feature_dtype": "int8"},
        {"feature_views": ("identity", "hflip")},
    ],
)
def test_extraction_jobs_learn_what_to_store(changes: dict[str, Any]) -> None:
    config = BASE.model_copy(update=changes)
    settings = shared_settings(config)[RunPaths(config).features_settings]
    job = parse_config(json.loads(json.dumps(settings)), "features")
    assert all(getattr(job, key) == value for key, value in changes.items())
    assert RunPaths(job).features == RunPaths(config).features


def test_weights_that_cannot_be_fetched_are_an_error_before_any_job(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILE_SAM_CACHE", str(tmp_path))
    nowhere = KnownCheckpoint("vit_t", "http://127.0.0.1:9/mobile_sam.pt", "0" * 64)
    monkeypatch.setitem(fetch.KNOWN_CHECKPOINTS, "mobile_sam", nowhere)
    runs = resolve("mobileSAM", None, directories(scenes))
    with pytest.raises(ConfigError) as caught:
        check_inputs(runs)
    message = str(caught.value)
    assert "http://127.0.0.1:9/mobile_sam.pt does not answer" in message
    assert f"put the file at {tmp_path / 'mobile_sam.pt'}" in message
    assert "overlay=demo" in message
    (tmp_path / "mobile_sam.pt").write_bytes(b"x")
    check_inputs(runs)


def test_runs_of_other_data_or_another_threshold_do_not_compare() -> None:
    a, b = (BASE.model_copy(update={"run_name": name}) for name in ("a", "b"))
    other = BASE.model_copy(update={"run_name": "c", "synthetic": Synthetic(train=3)})
    strict = BASE.model_copy(update={"run_name": "d", "mask_threshold": 1.0})
    assert comparable_runs([a, other, strict, b]) == [(a, b)]
    assert comparable_runs([a, other]) == []
    assert comparison_directory([a, b]).name == "a+b"
    many = [BASE.model_copy(update={"run_name": f"{k}" * 30}) for k in range(9)]
    assert len(comparison_directory(many).name) < 100
    assert comparison_directory(many) != comparison_directory(many[:-1])
