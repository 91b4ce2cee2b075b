"""Damaged and foreign files: a sentence that names them, and what to do about each."""

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mobile_sam.training import checkpoint
from tests.helpers.fault_projects import Copy, Project

pytestmark = pytest.mark.faults


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def turn_a_bit(path: Path) -> None:
    """Turn a bit of the largest tensor: those between records of the ZIP archive do not matter."""
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    name_length, extra_length = struct.unpack_from("<HH", content, record.header_offset + 26)
    start = record.header_offset + 30 + name_length + extra_length
    content[start + record.file_size // 2] ^= 1
    path.write_bytes(content)


DAMAGES = [cut, empty, turn_a_bit]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_deleted_it_is_made_anew(
    damage: Callable[[Path], None], copy: Copy, undisturbed: Project
) -> None:
    project = copy()
    path = project.stage("00_distill") / "checkpoint.pt"
    damage(path)
    named = f"{path.relative_to(project.directory)}: "
    for arguments in (
        ["train", "--stage", "01_finetune"],
        ["validate", "--checkpoint", "00_distill"],
    ):
        sentence = project.verb(*arguments).sentence
        assert sentence.startswith(named)
        assert "delete it" in sentence
    path.unlink()
    project.finish("train")
    project.finish("validate")
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_a_checkpoint_cut_off_under_snakemake_is_made_anew_once_it_is_deleted(
    copy: Copy, undisturbed: Project
) -> None:
    project = copy()
    path = project.run / "stages/01_finetune/checkpoint.pt"
    cut(path)
    project.remove("export")
    ended = project.snakemake()
    assert ended.status == 1
    assert "/checkpoint.pt: not a file of torch.save" in ended.output
    assert "delete it and run the command that made or downloaded it again" in ended.output
    path.unlink()
    before = project.files("train", "export", "validate", "report")
    project.finish_workflow()
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
    assert project.files("train", "export", "validate", "report") == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_resume_state_is_named_and_without_it_the_stage_begins_anew(
    damage: Callable[[Path], None], copy: Copy, undisturbed: Project
) -> None:
    project = copy(without="train")
    running = project.start("train")
    resume = project.stage("01_finetune") / "state" / "resume.pt"
    while not resume.is_file():
        assert running.process.is_alive()
    running.signal(9)
    checkpoint_of_first = str(project.stage("00_distill") / "checkpoint.pt")
    name = checkpoint_of_first.removeprefix(f"{project.results}/")
    first = project.files()[name]
    damage(resume)
    sentence = project.verb("train").sentence
    assert sentence.startswith(f"{resume.relative_to(project.directory)}: ")
    assert "delete it" in sentence
    resume.unlink()
    project.finish("train")
    assert project.differing(undisturbed) == project.missing(undisturbed) == []
    assert project.files()[name] == first


def test_a_checkpoint_of_another_run_is_refused(copy: Copy, undisturbed: Project) -> None:
    """Its tensors would fit."""
    project, other = copy(), copy(without="train")
    settings = json.loads((other.directory / "my.json").read_text())
    (other.directory / "my.json").write_text(json.dumps(settings | {"learning_rate": 0.5}))
    other.finish("train")
    path = project.stage("00_distill") / "checkpoint.pt"
    shutil.copy(other.stage("00_distill") / "checkpoint.pt", path)
    for arguments in (
        ["train", "--stage", "01_finetune"],
        ["validate", "--checkpoint", "00_distill"],
    ):
        assert project.verb(*arguments).sentence == (
            f"{path.relative_to(project.directory)}: the checkpoint was trained "
            "with other settings (stage); delete it and run the same command to train the "
            "stage again"
        )
    last = project.stage("01_finetune") / "checkpoint.pt"
    shutil.copy(other.stage("01_finetune") / "checkpoint.pt", last)
    assert "was trained with other settings" in project.verb("export").sentence
    for wrong in (path, last):
        wrong.unlink()
    for verb in ("train", "export", "validate"):
        project.finish(verb)
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_a_resume_state_of_another_run_is_not_used(copy: Copy, undisturbed: Project) -> None:
    project = copy(without="train")
    content = checkpoint.load(undisturbed.run / "stages/00_distill/checkpoint.pt")
    checkpoint.save(
        project.stage("00_distill") / "state" / "resume.pt",
        content | {"key": "other", "progress": {}},
    )
    ended = project.verb("train")
    assert "resume.pt belongs to other settings or inputs; starting from scratch" in ended.output
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


@pytest.mark.parametrize("damage", [cut, empty])
@pytest.mark.parametrize(
    ("verb", "place", "remade_by"),
    [
        ("train", "shared/*/index.parquet", "index"),
        ("report", "my/validation/teacher.parquet", "validate"),
        ("report", "my/stages/01_finetune/metrics.csv", "train"),  # through its link
    ],
    ids=["index", "table", "metrics"],
)
def test_other_damaged_results_are_named_with_what_to_do(
    verb: str,
    place: str,
    remade_by: str,
    damage: Callable[[Path], None],
    copy: Copy,
    undisturbed: Project,
) -> None:
    project = copy(without=verb if verb == "train" else None)
    (path,) = project.results.glob(place)
    damage(path)
    if path.suffix == ".csv" and damage is cut:
        path.write_text("epoch\n0\n")  # a cut in the middle of a row of numbers is not to be seen
    sentence = project.verb(verb).sentence
    assert sentence.startswith(f"{path.resolve().relative_to(project.directory.resolve())}: ")
    assert "again" in sentence
    path.unlink()
    if remade_by == "train":
        (project.run / "stages/01_finetune/checkpoint.pt").unlink()
    project.finish(remade_by)
    project.finish(verb)
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_a_damaged_chunk_of_features_is_repaired_and_training_ends_the_same(
    copy: Copy, undisturbed: Project
) -> None:
    project = copy(without="train")
    project.remove("export")
    (shard,) = project.results.glob("shared/*/features/*.zarr/neck/c/0/0/0/0/0")
    content = bytearray(shard.read_bytes())
    content[100] ^= 0xFF
    shard.write_bytes(content)
    ended = project.snakemake()
    assert ended.status == 1
    assert "are damaged" in ended.output
    assert "run `python -m mobile_sam features --repair`" in ended.output
    repaired = project.verb("features", "--repair")
    assert "damaged images: 1, computed again: 1" in repaired.output
    project.finish_workflow()
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def with_data(project: Project, scenes: Path) -> Path:
    """Give a project a copy of the images, to be damaged; nothing of it is made yet."""
    data = Path(shutil.copytree(scenes, project.directory / "data"))
    project.write(data)
    return data


def test_damaged_inputs_are_all_named_at_once(scenes: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.directory.mkdir()
    data = with_data(project, scenes)
    image = data / "train/image/scene_00003.png"
    mask = sorted((data / "train/mask/scene_00001").iterdir())[0]
    sound = image.read_bytes(), mask.read_bytes()
    cut(image)
    shutil.copy(sorted((data / "val/mask/scene_00000").iterdir())[0], mask)
    mask.write_bytes(_of_size(32))
    ended = project.verb("index")
    assert ended.status == 1
    assert "Traceback" not in ended.output
    assert "2 problems with images and annotations" in ended.output
    assert str(image) in ended.output
    assert str(mask) in ended.output
    for path, content in zip((image, mask), sound, strict=True):
        path.write_bytes(content)
    project.finish("index")


def _of_size(side: int) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (side, side), 255).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_cut_off_after_it_was_indexed_is_named(
    workers: int, scenes: Path, tmp_path: Path
) -> None:
    project = Project(tmp_path / "project")
    project.directory.mkdir()
    data = with_data(project, scenes)
    settings = json.loads((project.directory / "my.json").read_text())
    (project.directory / "my.json").write_text(json.dumps(settings | {"num_workers": workers}))
    project.finish("index")
    project.finish("extract")
    image = data / "train/image/scene_00003.png"
    sound = image.read_bytes()
    cut(image)
    assert project.verb("train").sentence.startswith(f"{image}: the image cannot be read")
    image.write_bytes(sound)
    project.write(data)
    project.finish("train")


@pytest.mark.parametrize("text", ["", '{"run_name": "my", ', "[]", "\x00\x01"])
def test_a_broken_config_is_one_line(text: str, copy: Copy, undisturbed: Project) -> None:
    project = copy()
    sound = (project.directory / "my.json").read_text()
    (project.directory / "my.json").write_text(text)
    assert project.verb("train").sentence.startswith("my.json: ")
    ended = project.snakemake()
    assert ended.status == 1
    assert "error: my.json: " in ended.output
    assert "Traceback" not in ended.output
    (project.directory / "my.json").write_text(sound)
    assert project.would_run() == set()
    assert project.differing(undisturbed) == project.missing(undisturbed) == []


def test_weights_of_a_teacher_that_are_cut_off_are_named(copy: Copy, tmp_path: Path) -> None:
    project = copy()
    weights = tmp_path / "teacher.pt"
    shutil.copy(project.run / "weights.pt", weights)
    settings = json.loads((project.directory / "my.json").read_text())
    settings |= {"teacher_checkpoint": str(weights), "teacher_model_type": "tiny_sam"}
    settings |= {"run_name": "other"}
    (project.directory / "my.json").write_text(json.dumps(settings))
    torch.save({}, weights)
    cut(weights)
    assert project.verb("extract").sentence.startswith(f"{weights}: not a file of torch.save")
