"""Every command, every path that it takes, and all that can be wrong with one: a sentence."""

import hashlib
import importlib
import json
import os
import pkgutil
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from snakemake.cli import parse_config as parse_snakemake

import mobile_sam
from mobile_sam.__main__ import main
from mobile_sam.config.load import load_settings, resolve
from mobile_sam.config.parsing import parse_config
from mobile_sam.download.files import FetchError, fetch_file
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original
from mobile_sam.paths import RunPaths
from mobile_sam.pipeline.inputs import check_inputs
from mobile_sam.system.directories import mark_output
from mobile_sam.system.errors import ConfigError
from mobile_sam.system.outputs import check_output
from tests.helpers.commands import snakemake
from tests.helpers.runs import prepare, tiny_settings

PROBLEMS = ("missing", "wrong", "unreadable", "dangling", "loop", "empty")
OF_RUN = (
    "synthesize",
    "index",
    "extract",
    "features",
    "train",
    "validate",
    "cost",
    "report",
    "estimate",
)
NOBODY = 65534

# Arguments of each command, of which one is the path in question: {}. Its kind comes before.
# `weights` and `photo` are files, `photos` a directory.
COMMANDS = {
    **{f"{name} --config": ("file", f"{name} --config {{}}") for name in OF_RUN},
    "features --config": ("file", "features --info --config {}"),
    "export --config": ("file", "export --config {}"),
    "export --weights": ("weights", "export --weights {} --onnx new"),
    "export --onnx": ("out", "export --weights weights --onnx {}"),
    "export --web": ("out", "export --weights weights --web {}"),
    "export --runtime": ("runtime", "export --weights weights --web new --runtime {}"),
    "export --images": ("directory", "export --weights weights --onnx new --int8 --images {}"),
    "predict --image": ("image", "predict --weights weights --box 1 1 9 9 --image {}"),
    "predict --weights": ("weights", "predict --box 1 1 9 9 --image photo --weights {}"),
    "predict --run": ("run", "predict --box 1 1 9 9 --image photo --run {}"),
    "predict --out": ("out", "predict --box 1 1 9 9 --weights weights --image photo --out {}"),
    "segment --images": ("directory", "segment --weights weights --images {}"),
    "segment --boxes": ("either", "segment --weights weights --images photos --boxes {}"),
    "segment --weights": ("weights", "segment --images photos --weights {}"),
    "segment --run": ("run", "segment --images photos --run {}"),
    "segment --out": ("out", "segment --weights weights --images photos --out {}"),
    "evaluate --images": ("directory", "evaluate --weights weights --masks masks --images {}"),
    "evaluate --masks": ("either", "evaluate --weights weights --images photos --masks {}"),
    "evaluate --weights": ("weights", "evaluate --images photos --masks masks --weights {}"),
    "evaluate --out": (
        "out",
        "evaluate --weights weights --images photos --masks masks --out {}",
    ),
    "compare --runs": ("file", "compare --runs {}"),
    "compare --out": ("out", "compare --runs one.json --out {}"),
    "app --run": ("run", "app --run {}"),
    "app --weights": ("weights", "app --weights {}"),
    "index --log": ("log", "index --config one.json --log {}"),
}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return to_original(build_sam_model("tiny_sam", 64))


@pytest.fixture
def place(
    scenes: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The current directory, with inputs that are right; any user can enter it."""
    directory = Path(tempfile.mkdtemp(prefix="mobile_sam-"))
    directory.chmod(0o777)
    monkeypatch.chdir(directory)
    shutil.copytree(scenes / "val" / "image", directory / "photos")
    shutil.copytree(scenes / "val" / "mask", directory / "masks")
    shutil.copy(scenes / "val" / "image" / "scene_00000.png", directory / "photo")
    torch.save(weights, directory / "weights")
    (directory / "one.json").write_text(json.dumps(tiny_settings(scenes, directory / "results")))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import the package beforehand: `as_somebody` may not read Python's own files.

    `read_text` decodes with a codec that Python imports on first use.
    """
    importlib.import_module("encodings.utf_8_sig")
    for module in pkgutil.walk_packages(mobile_sam.__path__, "mobile_sam."):
        if module.name not in {"mobile_sam.app.page", "mobile_sam.app.handlers"}:
            importlib.import_module(module.name)


@contextmanager
def as_somebody(needed: bool) -> Iterator[None]:
    """Without root's rights to read everything, where that is needed."""
    if os.geteuid() != 0 or not needed:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def spoilt(path: Path, kind: str, problem: str) -> bool:
    """Put at a path what is wrong with it; false where nothing would be."""
    is_file = kind in {"file", "weights", "image", "runtime", "log"}
    if problem == "wrong":
        if kind == "either":
            path.mkfifo() if hasattr(path, "mkfifo") else os.mkfifo(path)
        elif is_file:
            path.mkdir()
        else:
            path.write_text("a file")
    elif problem == "unreadable":
        path.write_text("{}") if is_file or kind == "either" else path.mkdir()
        path.chmod(0)
    elif problem == "dangling":
        path.symlink_to(path.with_name("nowhere"))
    elif problem == "loop":
        path.symlink_to(path)
    elif problem == "empty":
        path.write_text("") if is_file or kind == "either" else path.mkdir()
    can_be_right = {("out", "missing"), ("out", "empty"), ("log", "missing"), ("log", "empty")}
    return (kind, problem) not in can_be_right | {("log", "dangling")}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_cannot_be_used_is_named_in_one_sentence(
    command: str, problem: str, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind, typed = COMMANDS[command]
    path = place / ("given.json" if kind == "file" else "given")
    if not spoilt(path, kind, problem):
        pytest.skip("this is no error")
    with as_somebody(problem == "unreadable"):
        assert main([path.name if word == "{}" else word for word in typed.split()]) == 1
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    sentence = error.getMessage()
    assert path.name in sentence, sentence
    is_list = "problems with images and annotations:" in sentence
    assert is_list or "\n" not in sentence
    assert "Errno" not in sentence


def test_an_empty_argument_is_not_the_current_directory(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["segment", "--weights", "weights", "--images", ""])
    assert "argument --images: the path is empty; give a path" in capsys.readouterr().err


# Keys of a run that are paths, their kinds, and commands that read them.
KEYS = {
    "train_img_dir": ("directory", ["index"]),
    "train_mask_dir": ("either", ["index"]),
    "val_img_dir": ("directory", ["index"]),
    "val_mask_dir": ("either", ["index"]),
    "unlabelled_img_dir": ("directory", ["index"]),
    "data.subset": ("file", ["index"]),
    "checkpoint": ("weights", ["train", "validate --checkpoint start"]),
    "teacher_checkpoint": ("weights", ["extract", "validate --checkpoint teacher"]),
    "compare": ("weights", ["validate --checkpoint given", "cost"]),
    "detections": ("file", ["validate --checkpoint start --step ap"]),
    "output_dir": ("out", ["index", "extract", "train", "report", "cost", "features --info"]),
    "train_img_dir_teacher_features": ("out", ["extract"]),
}
CASES = [(key, kind, command) for key, (kind, all_) in KEYS.items() for command in all_]


@pytest.fixture(scope="module")
def indexed(scenes: Path) -> Iterator[dict[str, Any]]:
    """Settings of a run whose index is there, with files that any user can change."""
    place = Path(tempfile.mkdtemp(prefix="mobile_sam-"))
    data = Path(shutil.copytree(scenes, place / "data"))
    stages = [{"start_epoch": 0, "end_epoch": 1, "distillation": True}]
    settings = tiny_settings(data, place, stage_schedule=stages)
    prepare(parse_config(settings, "test"))
    for path in [place, *place.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    yield settings
    shutil.rmtree(place)


def with_key(settings: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    settings = {**settings, "run_name": "spoilt"}
    if key == "data.subset":
        return settings | {"data": {"subset": value}}
    if key == "detections":
        annotations = Path(value).with_name("annotations.json")
        annotations.write_text('{"images": [], "annotations": [], "categories": []}')
        settings["val_mask_dir"] = str(annotations)
    return settings | {key: [value] if key == "compare" else value}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(("key", "kind", "command"), CASES)
def test_a_path_in_a_run_that_cannot_be_used_is_a_sentence(
    key: str,
    kind: str,
    command: str,
    problem: str,
    indexed: dict[str, Any],
    place: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = place / "given"
    if not spoilt(path, kind, problem) or (kind == "out" and problem == "unreadable"):
        pytest.skip("this is no error, or the system's")
    (place / "spoilt.json").write_text(json.dumps(with_key(indexed, key, str(path))))
    with as_somebody(problem == "unreadable"):
        assert main([*command.split(), "--config", "spoilt.json"]) == 1
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert path.name in error.getMessage(), error.getMessage()
    assert "Errno" not in error.getMessage()
    paths = RunPaths(parse_config(indexed, "test"))
    for made in (paths.run.with_name("spoilt"), paths.project / "shared" / "stages"):
        shutil.rmtree(made, True)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(("key", "kind"), [(key, kind) for key, (kind, _) in KEYS.items()])
def test_snakemake_names_a_path_in_a_run_before_it_plans(
    key: str, kind: str, problem: str, indexed: dict[str, Any], place: Path
) -> None:
    path = place / "given"
    if not spoilt(path, kind, problem) or problem == "empty" or "features" in key:
        pytest.skip("this is no error, or a job's")
    (place / "spoilt.json").write_text(json.dumps(with_key(indexed, key, str(path))))
    runs = resolve("spoilt.json", None, {})
    with as_somebody(problem == "unreadable"), pytest.raises(ConfigError, match="given"):
        check_inputs(runs)


def test_results_may_lie_among_results_and_beside_their_log(place: Path) -> None:
    out, beside = place / "out", place / "project" / "comparisons" / "both"
    for directory in (out, beside):
        directory.mkdir(parents=True)
        (directory / "a.log").write_text("")
    check_output(out, "--out", lambda entry: False)
    (beside / "a.tsv").write_text("")
    with pytest.raises(ConfigError, match=r"the directory holds other files, such as a\.tsv"):
        check_output(beside, "--out", lambda entry: False)
    mark_output(place / "project")
    check_output(beside, "--out", lambda entry: False)


@pytest.mark.parametrize("link", ["nowhere", "image"])
def test_a_link_among_images_is_named_before_any_job(
    link: str, indexed: dict[str, Any], place: Path
) -> None:
    """One that leads to nothing, and one that leads to the directory in which it is."""
    data = Path(shutil.copytree(Path(indexed["train_img_dir"]).parents[1], place / "data"))
    (data / "train" / "image" / "link.png").symlink_to(data / "train" / link)
    (place / "linked.json").write_text(
        json.dumps(tiny_settings(data, place / "results", run_name="linked"))
    )
    result = snakemake(place, "-n", "--config", "run=linked.json")
    said = result.stdout + result.stderr
    assert result.returncode == 1
    assert re.search(r"error: .*link\.png: the link leads to .*remove the link", said), said
    assert "Traceback" not in said
    assert "Exception" not in said


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("run=2024_06", "run: Snakemake reads this name as the number 202406; give the path of"),
        ("run=007", "run: Snakemake reads this name as the number 7; give the path of"),
        ("run=1e5", "run: Snakemake reads this name as the number 100000.0; give the path of"),
        ("run_name=2024_06", "run_name: Snakemake reads this value as the number 202406, but"),
        ("train_img_dir=2023_11", "write train_img_dir=./2023_11"),
    ],
)
def test_a_name_that_snakemake_takes_for_a_number_is_explained(typed: str, says: str) -> None:
    given = parse_snakemake([typed])
    with pytest.raises(ConfigError, match=re.escape(says)):
        resolve(given.pop("run", "mobileSAM"), None, given)


def test_a_run_whose_name_looks_like_a_number_is_given_by_its_path(place: Path) -> None:
    (place / "configs").mkdir()
    (place / "configs" / "2024_06.json").write_text("{}")
    given = parse_snakemake(["run=configs/2024_06.json", "train_img_dir=./2023_11"])
    (config,) = resolve(given.pop("run"), None, given).named
    assert (config.run_name, config.train_img_dir) == ("2024_06", "./2023_11")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        ('{"run_name": "a"}'.encode("utf-16"), "the text is in UTF-16; save it as UTF-8"),
        (b'{\n"output_dir": "\xe9"}', "line 2: the text is not in UTF-8 (byte 0xe9)"),
        (b"[]", "the file must hold one JSON object"),
    ],
)
def test_settings_that_are_no_text_in_utf_8_are_a_sentence(
    content: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "my.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {says}")):
        load_settings(path)


def test_settings_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text('{"num_epochs": 7}', encoding="utf-8-sig")
    assert load_settings(path).num_epochs == 7


def test_an_unwritable_cache_names_the_variable_to_set(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "file").write_text("")
    monkeypatch.setenv("MOBILE_SAM_CACHE", str(place / "file"))
    commands = [
        "fetch mobile_sam",
        "fetch nuclei",
        "predict --weights mobile_sam --image photo --point 1 1",
        "segment --weights mobile_sam --images photos",
        "evaluate --weights mobile_sam --images photos --masks masks",
        "app --weights mobile_sam",
    ]
    for command in commands:
        caplog.clear()
        assert main(command.split()) == 1
        assert (
            f"{place / 'file'}: the cache cannot be written to (this is a file, not" in caplog.text
        )
        assert "set MOBILE_SAM_CACHE to a writable directory" in caplog.text
    with pytest.raises(ConfigError, match="set MOBILE_SAM_CACHE"):
        check_inputs(resolve("one.json", None, {"checkpoint": "mobile_sam"}))


def test_a_home_that_cannot_be_written_to_names_the_variable(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = place / "home"
    home.mkdir(mode=0o555)
    for name in ("MOBILE_SAM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    with as_somebody(needed=True):
        assert main(["fetch", "mobile_sam"]) == 1
    assert "set MOBILE_SAM_CACHE to a writable directory" in caplog.text


def test_a_file_of_a_cache_that_cannot_be_changed_is_used(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = place / "cache"
    cache.mkdir()
    (cache / "a.bin").write_bytes(b"abc")
    cache.chmod(0o555)
    digest = hashlib.sha256(b"abc").hexdigest()
    with as_somebody(needed=True):
        assert fetch_file("http://127.0.0.1:9/a.bin", digest, cache / "a.bin", "a") == (
            cache / "a.bin"
        )
        with pytest.raises(FetchError, match="this user cannot replace it; set MOBILE_SAM_CACHE"):
            fetch_file("http://127.0.0.1:9/a.bin", "0" * 64, cache / "a.bin", "a")
