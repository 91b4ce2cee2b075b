import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.config.load import known_overlays, known_runs, load_settings, resolve
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.fingerprints import fingerprint
from mobile_sam.pipeline.inputs import check_inputs
from mobile_sam.system.directories import mark_output
from mobile_sam.system.errors import ConfigError
from tests.helpers.runs import directories

SHIPPED = [
    "demo_teacher",
    "distill_then_finetune",
    "finetune_then_distill",
    "mobileSAM",
    "mobileSAM_se",
    "nuclei",
    "nuclei_small",
    "nuclei_small_teacher",
]


def write(path: Path, **settings: Any) -> str:
    path.write_text(json.dumps(settings))
    return str(path)


def test_the_shipped_runs_and_overlays() -> None:
    assert known_runs() == SHIPPED
    assert known_overlays() == ["demo", "tiny"]


@pytest.mark.parametrize("overlay", [None, "demo", "tiny"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_runs_validate(name: str, overlay: str | None) -> None:
    runs = resolve(name, overlay, {})
    assert runs.named[0].run_name == (f"{name}-{overlay}" if overlay else name)


def test_the_shapes_of_the_shipped_schedules() -> None:
    shapes = {
        name: [
            (s.directory, s.start_epoch, s.end_epoch)
            for s in normalise(resolve(name, None, {}).named[0])
        ]
        for name in SHIPPED[1:3]
    }
    assert shapes["distill_then_finetune"] == [("00_distill", 0, 50), ("01_finetune", 50, 100)]
    assert shapes["finetune_then_distill"] == [("00_finetune", 0, 50), ("01_distill", 50, 100)]


def test_precedence_is_run_overlay_command_line() -> None:
    plain = resolve("mobileSAM", None, {}).named[0]
    demo = resolve("mobileSAM", "demo", {}).named[0]
    given = resolve("mobileSAM", "demo", {"batch_size": 3}).named[0]
    assert (plain.img_size, demo.img_size) == (1024, 128)
    assert (demo.batch_size, given.batch_size) == (4, 3)


def test_a_teacher_run_joins_and_comes_first() -> None:
    runs = resolve("distill_then_finetune", "tiny", {})
    assert [config.run_name for config in runs.all] == [
        "demo_teacher-tiny",
        "distill_then_finetune-tiny",
    ]
    assert runs.named[0].teacher_checkpoint == "run:demo_teacher-tiny"
    assert runs.named[0].teacher_model_type == "tiny_teacher_vit"


def test_only_keys_of_data_and_place_reach_teacher_runs() -> None:
    teacher, student = resolve(
        "distill_then_finetune", "tiny", {"seed": 5, "batch_size": 2, "img_size": 128}
    ).all
    assert (teacher.seed, student.seed) == (5, 5)
    assert (teacher.img_size, student.img_size) == (128, 128)
    assert (teacher.batch_size, student.batch_size) == (4, 2)


def test_num_epochs_of_the_command_line_scales_the_schedule() -> None:
    config = resolve("distill_then_finetune", None, {"num_epochs": 4}).named[0]
    assert [(s.start_epoch, s.end_epoch) for s in normalise(config)] == [(0, 2), (2, 4)]


def test_text_of_the_command_line_is_read_as_json() -> None:
    config = resolve("mobileSAM", None, {"checkpoint": "null", "augment": '{"flip": true}'}).named[
        0
    ]
    assert config.checkpoint is None
    assert config.augment.flip


def test_several_runs_share_one_teacher() -> None:
    runs = resolve("distill_then_finetune,finetune_then_distill", "tiny", {})
    assert len(runs.all) == 3
    assert len(runs.named) == 2


@pytest.mark.parametrize(
    ("name", "overlay", "message"),
    [
        ("nothing", None, "run: 'nothing' is unknown; known runs: demo_teacher, distill_then"),
        ("mobileSAM", "huge", "overlay: 'huge' is unknown; known overlays: demo, tiny"),
        (",", None, "run: no run is given"),
    ],
)
def test_unknown_names_list_those_that_exist(name: str, overlay: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(name, overlay, {})
    assert "\n" not in str(caught.value)


def test_a_run_cannot_teach_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", teacher_checkpoint=f"run:{tmp_path / 'a.json'}")
    with pytest.raises(ConfigError, match="a run cannot need itself"):
        resolve(path, None, {})


def test_damaged_json_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"seed": 1,\n "num_epochs": }')
    with pytest.raises(ConfigError, match=r"a\.json: line 2: not JSON"):
        resolve(str(path), None, {})


def test_a_teacher_of_another_width_is_refused_before_any_job() -> None:
    changes = {"teacher_checkpoint": "random", "teacher_model_type": "tiny_teacher_vit"}
    with pytest.raises(ConfigError, match="embeddings of 32 channels, model_type 'vit_t' of 256"):
        resolve("distill_then_finetune", None, changes)


def test_a_block_that_the_teacher_lacks_is_refused_before_any_job() -> None:
    with pytest.raises(ConfigError, match=r"has no block 40 .* give one of 0 to 31, or 'neck'"):
        resolve("distill_then_finetune", None, {"distill_feature_level": ["neck", 40]})


def test_a_path_as_teacher_needs_its_architecture() -> None:
    with pytest.raises(ConfigError, match="set teacher_model_type to its"):
        resolve("distill_then_finetune", None, {"teacher_checkpoint": "some.pt"})


def test_missing_images_say_what_to_put_where_and_name_the_overlay() -> None:
    runs = resolve("mobileSAM", None, {"checkpoint": None, "train_img_dir": "not/there"})
    with pytest.raises(
        ConfigError, match="train_img_dir: 'not/there' is not a directory; put images"
    ) as caught:
        check_inputs(runs)
    assert "overlay=demo" in str(caught.value)


def test_missing_weights_say_what_to_put_where(scenes: Path) -> None:
    directories = {
        f"{split}_{short}_dir": str(scenes / split / name)
        for split in ("train", "val")
        for short, name in (("img", "image"), ("mask", "mask"))
    }
    runs = resolve("mobileSAM", None, {**directories, "checkpoint": "not/there.pt"})
    with pytest.raises(
        ConfigError, match=r"checkpoint: there is no file 'not/there\.pt'; give a path"
    ):
        check_inputs(runs)


def test_resolved_settings_read_back_equal(tmp_path: Path) -> None:
    config = resolve("distill_then_finetune", "tiny", {}).named[0]
    path = tmp_path / "run.json"
    path.write_text(config.model_dump_json(exclude={"schema_file"}))
    assert load_settings(path) == config.model_copy(update={"schema_file": None})


def test_fingerprint_sees_files_and_not_directories(tmp_path: Path) -> None:
    names = [f"{split}/{part}" for split in ("train", "val") for part in ("image", "mask")]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    keys = ["train_img_dir", "train_mask_dir", "val_img_dir", "val_mask_dir"]
    given = {key: str(tmp_path / name) for key, name in zip(keys, names, strict=True)}
    config = resolve("demo_teacher", None, given).named[0]
    image = tmp_path / "train/image/a.png"
    image.write_bytes(b"1")
    before = fingerprint(config)
    (tmp_path / "train/image").touch()
    assert fingerprint(config) == before
    image.write_bytes(b"12")
    changed = fingerprint(config)
    assert changed != before
    (tmp_path / "train/mask/a").mkdir()
    assert fingerprint(config) == changed
    (tmp_path / "train/mask/a/b.png").write_bytes(b"1")
    assert fingerprint(config) != changed


def test_fingerprint_passes_over_what_is_no_data(scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    config = resolve("demo_teacher", None, directories(data)).named[0]
    before, images = fingerprint(config), data / "train" / "image"
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._scene_00000.png"):
        (images / name).write_bytes(b"1")
    (data / "train" / "mask" / ".ipynb_checkpoints").mkdir()
    (data / "train" / "mask" / ".ipynb_checkpoints" / "a.png").write_bytes(b"1")
    mark_output(images / "segmentation")
    (images / "segmentation" / "a.png").write_bytes(b"1")
    assert fingerprint(config) == before
    (images / "more.png").write_bytes(b"1")
    assert fingerprint(config) != before


def test_fingerprint_names_links_that_lead_nowhere(scenes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    link = data / "train" / "image" / "b.png"
    link.symlink_to(tmp_path / "gone.png")
    config = resolve("demo_teacher", None, directories(data)).named[0]
    with pytest.raises(ConfigError, match=r"b\.png: the link leads to .*gone\.png, which does not"):
        fingerprint(config)
    # The index leaves out as many, and the image that comes there is seen.
    given = directories(data) | {"data": {"max_broken": 1}}
    config = resolve("demo_teacher", None, given).named[0]
    before = fingerprint(config)
    (tmp_path / "gone.png").write_bytes(b"1")
    assert fingerprint(config) != before
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(ConfigError, match=r"b\.png: "):
        fingerprint(resolve("demo_teacher", None, directories(data)).named[0])


@pytest.mark.parametrize("target", [".", "..", "../../.."])
def test_fingerprint_ends_at_a_link_to_a_directory_above_it(
    target: str, scenes: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    (data / "train" / "image" / "link").symlink_to(target)
    config = resolve("demo_teacher", None, directories(data)).named[0]
    with pytest.raises(ConfigError, match="link: the link leads to a directory above it; remove"):
        fingerprint(config)


def test_with_a_version_of_the_data_no_file_is_looked_at(scenes: Path) -> None:
    def of(version: str | None, **given: str) -> RunConfig:
        places = directories(scenes) | given | {"data": {"revision": version}}
        return resolve("demo_teacher", None, places).named[0]

    elsewhere = {"train_img_dir": "/nowhere"}
    assert fingerprint(of("1")) == fingerprint(of("1", **elsewhere))
    assert len({fingerprint(of(version)) for version in ("1", "2", None)}) == 3
    assert RunPaths(of("1")).index == RunPaths(of(None)).index


@pytest.mark.parametrize("known", ["synthetic", "public", "own"])
def test_fingerprint_sees_images_without_masks(
    known: str, scenes: Path, unlabelled: Path, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(unlabelled, tmp_path / "images"))
    name, overlay = ("nuclei", None) if known == "public" else ("demo_teacher", "tiny")
    config = resolve(name, overlay, directories(scenes) if known == "own" else {}).named[0]
    alone = fingerprint(config)
    config = config.model_copy(update={"unlabelled_img_dir": str(images)})
    before = fingerprint(config)
    assert before != alone
    images.touch()
    assert fingerprint(config) == before
    (images / "more").mkdir()
    assert fingerprint(config) == before
    (images / "more" / "new.png").write_bytes(b"1")
    assert fingerprint(config) != before


def test_drawn_scenes_are_those_of_teacher_runs_too() -> None:
    for given in ({"train": 7, "val": 2}, '{"train": 7, "val": 2}'):
        runs = resolve("distill_then_finetune", "tiny", {"synthetic": given})
        assert len({RunPaths(config).dataset for config in runs.all}) == 1
        assert [config.synthetic and config.synthetic.train for config in runs.all] == [7, 7]


def test_another_seed_leaves_the_drawn_scenes_as_they_are() -> None:
    def dataset(**given: Any) -> Path:
        return RunPaths(resolve("mobileSAM", "tiny", given).named[0]).dataset

    assert dataset(seed=3) == dataset()
    assert dataset(synthetic={"seed": 3}) != dataset(synthetic={})


IDLE = r"run '.*': unlabelled_img_dir: 'd', but no stage distils, and only distillation uses"


def test_images_without_masks_need_a_stage_that_distils(tmp_path: Path) -> None:
    own = {"unlabelled_img_dir": "d", "model_type": "tiny_sam", "num_epochs": 2}
    teacher = {"teacher_checkpoint": "random", "teacher_model_type": "tiny_teacher_vit"}
    with pytest.raises(ConfigError, match=IDLE):
        resolve(write(tmp_path / "a.json", **own, **teacher), None, {})
    unweighted = {"use_distill": True, "lambda_coef": 0.0}
    with pytest.raises(ConfigError, match="lambda_coef: 0 disables it"):
        resolve(write(tmp_path / "b.json", **own, **teacher, **unweighted), None, {})
    entry = {"start_epoch": 1, "end_epoch": 2, "distillation": True}
    path = write(tmp_path / "c.json", **own, **teacher, stage_schedule=[entry])
    assert resolve(path, None, {}).named[0].unlabelled_img_dir == "d"
    assert resolve(path, "tiny", {}).named[0].unlabelled_img_dir is None


def test_images_without_masks_from_the_command_line_hold_for_teacher_runs_too(
    tmp_path: Path,
) -> None:
    given = {"unlabelled_img_dir": "d"}
    runs = resolve("distill_then_finetune", "tiny", given)
    assert [config.unlabelled_img_dir for config in runs.all] == ["d", "d"]
    teacher = tmp_path / "run.json"
    teacher.write_text(runs.all[0].model_dump_json(exclude={"schema_file"}))
    assert load_settings(teacher) == runs.all[0].model_copy(update={"schema_file": None})
    assert len(resolve("distill_then_finetune,mobileSAM", "tiny", given).named) == 2
    for names in ("demo_teacher", "mobileSAM"):
        with pytest.raises(ConfigError, match=IDLE):
            resolve(names, "tiny", given)
