"""The command line in processes of its own: errors in one line, without a traceback."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mobile_sam.__main__ import COMMANDS, main
from mobile_sam.config.run import RunConfig
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.weights import to_original
from mobile_sam.paths import RunPaths
from mobile_sam.training.export import export_weights
from mobile_sam.training.run import train_run
from tests.helpers.commands import new_process, verb
from tests.helpers.runs import directories

Make = Callable[..., RunConfig]


def settings(config: RunConfig) -> Path:
    path = RunPaths(config).settings
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json(exclude={"schema_file"}))
    return path


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text('{"learning_rat": 1}')
    result = new_process("train", "--config", path)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "my.json: unknown key 'learning_rat'" in result.stderr


def test_broken_images_are_listed_without_a_traceback(tmp_path: Path, scenes: Path) -> None:
    import json
    import shutil

    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    for name in ("scene_00001.png", "scene_00004.png"):
        (data / "train" / "image" / name).write_bytes(b"no image")
    path = tmp_path / "my.json"
    path.write_text(json.dumps({**directories(data), "output_dir": str(tmp_path)}))
    result = verb("index", "--config", path)
    assert result.returncode == 1
    assert "scene_00001.png" in result.stderr
    assert "scene_00004.png" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_index_is_kept_for_the_next_time(tiny: Make) -> None:
    config = tiny()
    result = verb("index", "--config", settings(config), "--workers", 1)
    assert result.returncode == 0, result.stderr
    paths = RunPaths(config)
    assert paths.kept_index.read_bytes() == paths.index.read_bytes()
    assert "segments of an image" in result.stdout


def test_the_summary_is_of_the_index_that_is_there(tiny: Make, tmp_path: Path) -> None:
    path = settings(tiny(data={"min_area": 150}))
    result = verb("index", "--summary", "--config", path)
    assert result.returncode == 0, result.stderr
    assert "segments of an image" in result.stdout
    assert "smaller than min_area" in result.stdout
    RunPaths(tiny(data={"min_area": 150})).index.unlink()
    result = verb("index", "--summary", "--config", path)
    assert result.returncode == 1
    assert "there is no index; run `python -m mobile_sam index`" in result.stderr


def test_nothing_to_extract_is_said(tiny: Make) -> None:
    result = verb("extract", "--config", settings(tiny()))
    assert result.returncode == 1
    assert "no stage distils from stored features" in result.stderr


def test_the_chain_by_hand(tiny: Make, tmp_path: Path) -> None:
    config = tiny(use_distill=True)
    path = settings(config)
    for arguments in (["train"], ["export"], ["validate"], ["report"]):
        result = new_process(*arguments, "--config", path, "--log", tmp_path / "a.log")
        assert result.returncode == 0, result.stderr
    assert "report: " in result.stdout
    assert "loss" in (tmp_path / "a.log").read_text()


def test_exported_weights_are_those_of_the_last_stage(tiny: Make) -> None:
    config = tiny()
    train_run(config)
    export_weights(config)
    model = load_any(RunPaths(config).weights, 64, "tiny_sam")
    assert len(model.state_dict()) > 100


@pytest.mark.parametrize("name", ["index", "extract", "train", "validate", "report", "fetch"])
def test_every_verb_explains_itself(name: str) -> None:
    result = new_process(name, "--help")
    assert result.returncode == 0
    assert "usage" in result.stdout


@pytest.mark.parametrize(
    ("called", "named"),
    [
        ("/x/bin/mobile-sam", "mobile-sam"),
        ("C:/x/mobile-sam.exe", "mobile-sam"),
        ("/x/mobile_sam/__main__.py", "python -m mobile_sam"),
    ],
)
def test_help_names_what_was_called(
    called: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [called])
    with pytest.raises(SystemExit):
        main(["where", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {named} where ")
    assert f"  {named} where configs" in shown


def test_shells_complete_verbs_and_options(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    made = [sys.executable, "-m", "shtab", "--shell=bash", "mobile_sam.__main__.command_line"]
    script.write_text(subprocess.check_output(made, text=True))
    complete = (
        'source "$0"; ask=$(complete -p mobile-sam | grep -o "_[^ ]*");'
        'COMP_WORDS=(mobile-sam "$@"); COMP_CWORD=$#; $ask; echo "${COMPREPLY[*]}"'
    )

    def offered(*typed: str) -> str:
        return subprocess.check_output(["bash", "-c", complete, script, *typed], text=True).strip()

    assert offered("seg") == "segment"
    assert offered("segment", "--box") == "--boxes --box-nms-thresh"
    assert offered("fetch", "sam_vit_h") == "sam_vit_h"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_a_purpose_an_example_and_groups(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"{COMMANDS[name].text[0].upper()}{COMMANDS[name].text[1:]}." in " ".join(shown.split())
    assert f"example:\n  python -m mobile_sam {name}" in shown
    assert "\nlog:\n" in shown
    if name in {"predict", "segment", "evaluate", "export"}:
        assert "\noptions:\n  -h, --help" in shown
        assert shown.split("\noptions:\n")[1].split("\n\n")[0].count("--") == 1
        assert len(re.findall(r"^[a-z][a-z ,-]+:$", shown, re.MULTILINE)) >= 4


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "x"])
@pytest.mark.parametrize("option", ["--box", "--point", "--background", "--mask-threshold"])
def test_what_is_no_number_is_named(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    count = {"--box": 4, "--mask-threshold": 1}.get(option, 2)
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--weights", "a", "--image", "b", f"{option}", *[value] * count])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"argument {option}: " in told
    assert "Traceback" not in told


def test_a_reader_that_has_gone_ends_the_verb_quietly() -> None:
    command = f"{sys.executable} -m mobile_sam where configs | head -0; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "141"
    assert result.stderr == ""


def test_quiet_and_verbose(tiny: Make, tmp_path: Path) -> None:
    path = settings(tiny())
    told = {}
    for option in ((), ("--quiet",), ("--verbose",)):
        result = verb("index", "--config", path, "--workers", 1, *option)
        assert result.returncode == 0, result.stderr
        told[option] = result.stderr
    assert "segments in" in told[()]
    assert told[("--quiet",)] == ""
    wrong = tmp_path / "my.json"
    wrong.write_text('{"learning_rat": 1}')
    quiet = verb("index", "--config", wrong, "--quiet")
    assert "unknown key 'learning_rat'" in quiet.stderr
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in verb("index", "--config", wrong, "--verbose").stderr


def test_weights_are_measured_on_the_device_that_is_asked_for(
    tmp_path: Path, scenes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "w.pt"
    torch.save(to_original(build_sam_model("tiny_sam", 64)), weights)
    given = [
        *("evaluate", "--weights", str(weights), "--out", str(tmp_path / "out")),
        *("--images", str(scenes / "val" / "image"), "--masks", str(scenes / "val" / "mask")),
        *("--img-size", "64", "--protocols", "box", "--benchmark-repeats", "0"),
    ]
    assert main([*given, "--device", "mars"]) == 1
    assert "--device mars: " in caplog.text
    assert main([*given, "--device", "cpu"]) == 0
    assert (tmp_path / "out" / "report" / "index.html").is_file()
