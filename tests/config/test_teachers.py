"""Several teachers: each is resolved, checked, stored and looked after as the first is."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.__main__ import main
from mobile_sam.config.checkpoints import checkpoint_names
from mobile_sam.config.load import Runs, load_settings, resolve
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import canonical, normalise
from mobile_sam.config.teachers import named_teachers, teacher_configs
from mobile_sam.features.identity import bytes_per_image, identity, teacher_digest
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.student_teacher import load_teacher
from mobile_sam.paths import RunPaths, feature_key
from mobile_sam.pipeline.fingerprints import validation_settings
from mobile_sam.pipeline.inputs import check_inputs, known_checkpoints
from mobile_sam.pipeline.settings_files import shared_settings
from mobile_sam.system.errors import ConfigError
from tests.helpers.commands import ROOT
from tests.helpers.equality import equal_states
from tests.helpers.feature_stores import damage, shard_file
from tests.helpers.runs import directories, tiny_settings

Make = Callable[..., RunConfig]
VIT = {"checkpoint": "random", "model_type": "tiny_teacher_vit"}
TINY = {"checkpoint": "random", "model_type": "tiny_sam", "feature_level": ["neck", 2]}


def run(tmp_path: Path, more: list[dict[str, Any]], **changes: Any) -> RunConfig:
    """A run as it is resolved from its JSON, with `more` teachers."""
    path = tmp_path / "my.json"
    settings = tiny_settings(ROOT, tmp_path, extra_teachers=more, use_distill=True, **changes)
    path.write_text(json.dumps(settings))
    return resolve(str(path), None, {}).named[0]


def test_each_teacher_is_a_run_with_that_teacher_alone(tmp_path: Path) -> None:
    config = run(tmp_path, [VIT, TINY], train_img_dir_teacher_features="mine.zarr")
    first, second, third = teacher_configs(config)
    assert first == config.model_copy(update={"extra_teachers": ()})
    assert [c.teacher_checkpoint for c in (second, third)] == ["random:1", "random:2"]
    assert [c.teacher_model_type for c in (second, third)] == ["tiny_teacher_vit", "tiny_sam"]
    assert [c.distill_levels for c in (second, third)] == [("neck",), ("neck", 2)]
    stores = [paths.features for paths in RunPaths(config).teachers]
    assert stores[0] == Path("mine.zarr")
    assert len(set(stores)) == 3
    assert {path.parent for path in stores[1:]} == {RunPaths(config).dataset / "features"}


def test_a_run_without_a_teacher_has_none(tmp_path: Path) -> None:
    config = parse_config({"run_name": "x"}, "my.json")
    assert teacher_configs(config) == ()
    assert "teacher" not in checkpoint_names(config)


def test_random_teachers_of_one_architecture_are_other_models(tmp_path: Path) -> None:
    teachers = teacher_configs(run(tmp_path, [VIT, VIT], seed=4))
    states = [load_teacher(teacher).state_dict() for teacher in teachers]
    assert equal_states(states[0], build_sam_model("tiny_teacher_vit", 64, seed=5).state_dict())
    assert not any(equal_states(states[a], states[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert len({teacher_digest(teacher) for teacher in teachers}) == 3
    assert len({feature_key(teacher) for teacher in teachers}) == 3


def test_extraction_jobs_have_settings_for_each_store(tmp_path: Path) -> None:
    config = run(tmp_path, [VIT, TINY])
    files = shared_settings(config)
    for teacher in teacher_configs(config):
        settings = files[RunPaths(teacher).features_settings]
        assert "extra_teachers" not in settings
        job = parse_config(json.loads(json.dumps(settings)), "features")
        assert RunPaths(job).features == RunPaths(teacher).features
        assert identity(job) == identity(teacher)
    assert len(files) == 1 + 3


def test_a_second_teacher_shares_its_store_with_a_run_whose_first_it_is() -> None:
    known = {"checkpoint": "sam_vit_b", "feature_level": 3}
    given = {"teacher_checkpoint": "sam_vit_l", "extra_teachers": [known]}
    two = resolve("distill_then_finetune", None, given).named[0]
    other = {"teacher_checkpoint": "sam_vit_b", "distill_feature_level": 3}
    alone = resolve("distill_then_finetune", None, other).named[0]
    assert RunPaths(two).teachers[1].features == RunPaths(alone).features
    stored = RunPaths(alone).features_settings
    assert shared_settings(two)[stored] == shared_settings(alone)[stored]


def test_known_names_say_the_architecture_and_are_fetched() -> None:
    given = {"extra_teachers": [{"checkpoint": "sam_vit_b"}, {"checkpoint": "sam_vit_l"}]}
    runs = resolve("distill_then_finetune", None, given)
    assert [t.model_type for t in runs.named[0].extra_teachers] == ["vit_b", "vit_l"]
    assert known_checkpoints(runs) == {"mobile_sam", "sam_vit_h", "sam_vit_b", "sam_vit_l"}


def test_a_run_joins_with_its_overlay_and_comes_first(tmp_path: Path) -> None:
    more = [{"checkpoint": "run:demo_teacher", "feature_level": 1}]
    given = {"extra_teachers": more, "teacher_checkpoint": "random"}
    given |= {"teacher_model_type": "tiny_sam"}
    runs = resolve("distill_then_finetune", "tiny", given)
    assert [c.run_name for c in runs.all] == ["demo_teacher-tiny", "distill_then_finetune-tiny"]
    (teacher,) = runs.named[0].extra_teachers
    assert teacher.checkpoint == "run:demo_teacher-tiny"
    assert teacher.model_type == "tiny_teacher_vit"
    weights = RunPaths(runs.named[0]).teachers[1].teacher_weights
    assert weights == RunPaths(runs["demo_teacher-tiny"]).weights
    path = tmp_path / "run.json"
    path.write_text(runs.named[0].model_dump_json(exclude={"schema_file"}))
    assert load_settings(path) == runs.named[0].model_copy(update={"schema_file": None})


def test_a_run_by_hand_finds_the_architecture_of_its_teacher_run(tmp_path: Path) -> None:
    more = [{"checkpoint": "run:demo_teacher"}]
    path = tmp_path / "my.json"
    settings = tiny_settings(ROOT, tmp_path, extra_teachers=more, model_type="demo_student")
    path.write_text(json.dumps(settings))
    assert load_settings(path).extra_teachers[0].model_type == "demo_teacher"


def test_a_run_is_not_its_own_second_teacher(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a run cannot need itself"):
        run(tmp_path, [{"checkpoint": f"run:{tmp_path / 'my.json'}"}])


@pytest.mark.parametrize(
    ("more", "changes", "message"),
    [
        ([VIT], {"teacher_checkpoint": None}, "extra_teachers: .*; set teacher_checkpoint"),
        (
            [{"checkpoint": "a.pt"}],
            {},
            r"s\[0\]\.checkpoint: 'a.pt' is a path; set extra_teachers\[0",
        ),
        ([VIT, {"checkpoint": "random"}], {}, r"set extra_teachers\[1\].model_type to its"),
        (
            [VIT | {"model_type": "vit_x"}],
            {},
            r"extra_teachers\[0\].model_type: 'vit_x' is unknown",
        ),
        ([VIT | {"model_type": "vit_b"}], {}, r"extra_teachers\[0\].model_type: 'vit_b' has embed"),
        (
            [VIT, VIT | {"feature_level": 3}],
            {},
            r"extra_teachers\[1\].feature_level: .* no block 3",
        ),
        ([VIT | {"feature_level": "nek"}], {}, r"extra_teachers.0.feature_level: give 'neck'"),
        ([VIT | {"weight": 0}], {}, r"extra_teachers.0.weight: .* greater than 0 \(it is 0\)"),
        (
            [VIT | {"checkpoint": "a.pt"}, VIT | {"checkpoint": "a.pt", "weight": 2.0}],
            {},
            r"extra_teachers\[1\].checkpoint: 'a.pt' .* repeats extra_teachers\[0\].checkpoint;",
        ),
        (
            [VIT | {"checkpoint": "a.pt"}],
            {"teacher_checkpoint": "a.pt"},
            r"extra_teachers\[0\].checkpoint: 'a.pt' at this level repeats teacher_checkpoint;",
        ),
    ],
)
def test_what_is_wrong_with_a_teacher_is_named(
    more: list[dict[str, Any]], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, more, **changes)


def test_blocks_of_a_teacher_of_another_width_are_allowed(tmp_path: Path) -> None:
    config = run(tmp_path, [{"checkpoint": "sam_vit_b", "feature_level": 8}])
    assert config.extra_teachers[0].model_type == "vit_b"


def test_missing_weights_of_a_teacher_are_named(scenes: Path, tmp_path: Path) -> None:
    config = run(tmp_path, [VIT, VIT | {"checkpoint": "gone.pt"}])
    config = config.model_copy(update=directories(scenes))
    with pytest.raises(ConfigError, match=r"extra_teachers\[1\].checkpoint: .* no file 'gone.pt'"):
        check_inputs(Runs(all=(config,), named=(config,)))


@pytest.mark.parametrize(
    ("key", "weights"),
    [
        ("checkpoint", "random"),
        ("teacher_checkpoint", "shapes"),
        ("teacher_checkpoint", "imagenet"),
    ],
)
def test_weights_of_the_other_kind_of_model_are_no_file(
    key: str, weights: str, scenes: Path, tmp_path: Path
) -> None:
    config = run(tmp_path, []).model_copy(update={**directories(scenes), key: weights})
    with pytest.raises(ConfigError, match=f"{key}: there is no file '{weights}'; give a path"):
        check_inputs(Runs(all=(config,), named=(config,)))


def test_every_teacher_is_validated_by_its_own_settings(tmp_path: Path) -> None:
    config = run(tmp_path, [VIT, TINY])
    assert (
        checkpoint_names(config)[-3:]
        == list(named_teachers(config))
        == [*("teacher", "teacher_2", "teacher_3")]
    )
    settings = {what: validation_settings(config, what) for what in checkpoint_names(config)}
    changed = run(tmp_path, [VIT, TINY | {"model_type": "tiny_sam_se"}])
    again = {what for what in settings if validation_settings(changed, what) != settings[what]}
    assert again == {"teacher_3"}


STAGES = [
    {"start_epoch": 0, "end_epoch": 1, "distillation": False},
    {"start_epoch": 1, "end_epoch": 2, "distillation": True},
]


def depends_on(tmp_path: Path, *more: dict[str, Any]) -> list[str]:
    config = run(tmp_path, list(more), num_epochs=2, stage_schedule=STAGES)
    return [canonical(config, stage) for stage in normalise(config)]


def test_equal_teachers_are_one_setting(tmp_path: Path) -> None:
    assert depends_on(tmp_path, TINY | {"weight": 1}) == depends_on(
        tmp_path, TINY | {"feature_level": [2, "neck"]}
    )


@pytest.mark.parametrize("changes", [{"weight": 0.5}, {"model_type": "tiny_sam"}])
def test_a_teacher_counts_in_the_stages_that_distil(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    before, after = depends_on(tmp_path, VIT), depends_on(tmp_path, VIT | changes)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


@pytest.mark.parametrize("changes", [{"feature_level": 2}, {"model_type": "tiny_sam"}])
def test_projections_of_its_blocks_count_in_all_stages(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """The module has one shape, with which the first checkpoint is written."""
    block = VIT | {"feature_level": 2} if "model_type" in changes else VIT
    before, after = depends_on(tmp_path, block), depends_on(tmp_path, block | changes)
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False]


def test_the_example_of_the_docs_is_valid(tmp_path: Path) -> None:
    """And takes the room that the page says."""
    (block,) = re.findall(
        r"^    {\n(?:    .*\n)+", (ROOT / "docs" / "features.md").read_text(), re.M
    )
    path = tmp_path / "my.json"
    path.write_text(block)
    teachers = teacher_configs(resolve(str(path), None, {}).named[0])
    assert [teacher.distill_levels for teacher in teachers] == [("neck", 8), ("neck",), (11,)]
    shapes = [
        {"teacher_model_type": t.teacher_model_type, "levels": t.distill_levels, "views": [""]}
        | {"img_size": t.img_size, "dtype": t.feature_dtype}
        for t in teachers
    ]
    assert [bytes_per_image(shape) / 2**20 for shape in shapes] == [12.0, 2.0, 6.0]


@pytest.fixture
def saved(tiny: Make) -> tuple[RunConfig, Path]:
    """A run of two teachers that has its index, and no features."""
    config = tiny(extra_teachers=[TINY]).model_copy(update={"use_distill": True})
    path = RunPaths(config).settings
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json(exclude={"schema_file"}))
    return config, path


def test_verbs_look_after_all_stores_of_a_run(
    saved: tuple[RunConfig, Path],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, path = saved
    first, second = RunPaths(config).teachers
    assert main(["extract", "--config", str(path)]) == 0
    assert main(["features", "--verify", "--config", str(path)]) == 0
    assert capsys.readouterr().out.count("all 10 images can be read") == 2
    assert main(["features", "--info", "--config", str(path)]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^store +(.*)$", said, re.M) == [str(first.features), str(second.features)]
    for teacher in (first, second):
        damage(shard_file(teacher.config), "cut")
    assert main(["features", "--verify", "--config", str(path)]) == 1
    for teacher in (first, second):
        assert f"{teacher.features}: 10 of 10 images are damaged" in caplog.text
    assert main(["features", "--repair", "--config", str(path)]) == 0
    assert capsys.readouterr().out.count("damaged images: 10, computed again: 10") == 2


def test_each_step_of_the_extraction_is_taken_for_all_teachers(
    saved: tuple[RunConfig, Path],
) -> None:
    config, path = saved
    for step in ("plan", "part", "finish"):
        assert main(["extract", "--step", step, "--config", str(path)]) == 0
    for teacher in RunPaths(config).teachers:
        assert json.loads(teacher.features_manifest.read_text())["images"] == 10
