"""The directory that `export --web` writes, and the archive of onnxruntime-web that it takes."""

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobile_sam.__main__ import main
from mobile_sam.config.run import RunConfig
from mobile_sam.download.files import FetchError
from mobile_sam.export import bundle as bundles
from mobile_sam.export import web_page
from mobile_sam.export.calibration import EvaluationImage
from mobile_sam.export.predictor import OnnxPredictor
from mobile_sam.export.web_page import PAGE, runtime_archive, write_page
from mobile_sam.models.sam import Sam
from mobile_sam.models.weights import to_original
from mobile_sam.paths import RunPaths
from mobile_sam.system.atomic_files import file_digest
from mobile_sam.system.errors import UserError

Make = Callable[..., RunConfig]
ELSEWHERE = "../../outside.js"


def write_archive(path: Path, names: list[str]) -> Path:
    """An archive of files that say their names."""
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return path


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for onnxruntime-web's, with a member that would leave the directory."""
    path = write_archive(tmp_path / "runtime.tgz", [ELSEWHERE, *web_page.FILES])
    monkeypatch.setattr(web_page, "SHA256", file_digest(path))
    return path


def write(bundle: Path, directory: Path, archive: Path, examples: list[Path]) -> dict[str, Any]:
    """A page around a copy of a bundle."""

    def copy(target: Path) -> dict[str, Any]:
        shutil.copytree(bundle, target)
        return json.loads((target / "bundle.json").read_text())

    return write_page(
        directory, copy, archive, "my run", [EvaluationImage(path) for path in examples]
    )


def test_all_that_the_page_asks_for_lies_beside_it(
    bundle: Path, unlabelled: Path, archive: Path, tmp_path: Path
) -> None:
    page = tmp_path / "deep" / "page"
    examples = sorted(unlabelled.iterdir())[:2]
    write(bundle, page, archive, examples)
    about = json.loads((page / "page.json").read_text())
    assert about["title"] == "my run"
    assert [np.asarray(Image.open(page / name)).shape for name in about["examples"]] == [
        (64, 64, 3),
        (64, 64, 3),
    ]
    assert OnnxPredictor(page / "model", "int8").img_size == 64
    assert (page / "runtime" / "ort.js").read_text() == "package/dist/ort.wasm.min.mjs"
    assert "MIT License" in (page / "runtime" / "LICENSE").read_text()
    assert not list(tmp_path.rglob("outside.js"))
    named = {
        name
        for path in page.glob("*.*")
        for name in re.findall(
            r"""(?:from|import|src=|href=|withPagePolicy\() ?"([^"]+)\"""", path.read_text()
        )
    }
    assert {"main.js", "style.css", "./worker.js", "./runtime/ort.js"} <= named
    assert [name for name in named if not (page / name).is_file()] == []


def test_the_page_names_no_other_server() -> None:
    texts = {path.name: path.read_text() for path in PAGE.iterdir()}
    assert {"index.html", "main.js", "worker.js"} <= set(texts)
    found = {url for text in texts.values() for url in re.findall(r"(?:https?:)?//[\w.:]+", text)}
    assert found == {"http://localhost:8000", "http://www.w3.org"}  # a sentence, and SVG's name


def test_a_large_example_is_made_smaller(bundle: Path, archive: Path, tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.jpg")
    write(bundle, tmp_path / "page", archive, [tmp_path / "large.jpg"])
    assert Image.open(tmp_path / "page" / "examples" / "1.png").size == (1024, 512)


def test_a_page_takes_the_place_of_a_page_and_of_nothing_else(
    bundle: Path, archive: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page"
    write(bundle, page, archive, [])
    (page / "old").touch()
    write(bundle, page, archive, [])
    assert not (page / "old").exists()
    kept = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    with pytest.raises(UserError, match="it contains other files; give another directory"):
        write(bundle, kept, archive, [])
    with pytest.raises(UserError, match=r"cannot be read"):
        write(bundle, page, archive, [archive])
    assert (page / "index.html").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"page", "bundle", "runtime.tgz"}


def test_a_model_that_no_browser_holds_is_refused(archive: Path, tmp_path: Path) -> None:
    def write_model(_: Path) -> dict[str, Any]:
        return {"bytes": {"encoder.onnx": 10**6, "encoder.onnx.data": 5 * 2**29}}

    with pytest.raises(UserError, match=r"encoder.onnx.data has 2.5 GiB, more than a browser can"):
        write_page(tmp_path / "page", write_model, archive, "huge", [])
    assert [path.name for path in tmp_path.iterdir()] == ["runtime.tgz"]


def test_another_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    other = write_archive(tmp_path / "other.tgz", list(web_page.FILES))
    assert runtime_archive(archive) == archive
    with pytest.raises(
        FetchError, match=r"other.tgz: not the archive of onnxruntime-web .* `npm pack"
    ):
        runtime_archive(other)
    with pytest.raises(UserError, match=r"--runtime .*none.tgz: there is no such file"):
        runtime_archive(tmp_path / "none.tgz")


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in the place of npm; returns the archive's place in an empty cache."""
    monkeypatch.setenv("MOBILE_SAM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def make(script: str) -> Path:
        (tmp_path / "bin" / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "npm").chmod(0o755)
        return tmp_path / "cache" / f"onnxruntime-web-{web_page.VERSION}.tgz"

    return make


def test_npm_is_asked_once(npm: Callable[[str], Path], archive: Path) -> None:
    script = f'test "$2" = onnxruntime-web@{web_page.VERSION} && cp {archive} '
    kept = npm(script + f"onnxruntime-web-{web_page.VERSION}.tgz")
    assert runtime_archive() == kept
    npm("exit 1")
    assert runtime_archive() == kept
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    kept.write_bytes(b"damaged")
    with pytest.raises(FetchError, match=r"not the archive of onnxruntime-web .*; delete it"):
        runtime_archive()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error offline' >&2; exit 1", r"npm cannot fetch .*\(npm error offline\)"),
        ("exit 0", r"npm cannot fetch onnxruntime-web@.* \(no error message\)"),
        ('echo bad > "$(echo $2 | tr @ -).tgz"', "not the archive of onnxruntime-web"),
    ],
)
def test_what_npm_fails_at_can_be_done_by_hand(
    script: str, message: str, npm: Callable[[str], Path]
) -> None:
    kept = npm(script)
    with pytest.raises(FetchError, match=message + r".*give the file with --runtime"):
        runtime_archive()
    assert list(kept.parent.iterdir()) == []


def test_a_missing_npm_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILE_SAM_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        FetchError, match=r"there is no npm; run `npm pack onnxruntime-web@.*--runt"
    ):
        runtime_archive()


def test_the_verb_writes_a_page_of_a_run(
    bundle: Path,
    model: Sam,
    tiny: Make,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def copy(_: Sam, directory: Path) -> dict[str, float]:
        for name in ("encoder.onnx", "decoder.onnx"):
            shutil.copyfile(bundle / name, directory / name)
        return {}

    monkeypatch.setattr(bundles, "export_onnx", copy)
    paths = RunPaths(tiny(mask_threshold=0.25))
    paths.run.mkdir(parents=True)
    paths.settings.write_text(tiny(mask_threshold=0.25).model_dump_json(exclude={"schema_file"}))
    page = tmp_path / "page"
    command = ["export", "--config", paths.settings, "--web", page, "--runtime", archive]
    assert main(list(map(str, command))) == 1
    assert "weights.pt: there is no such file; run `export` without --web first" in caplog.text
    torch.save(to_original(model), paths.weights)
    assert main(list(map(str, command))) == 0, caplog.text
    assert f"python -m http.server --directory {page}" in capsys.readouterr().out
    about = json.loads((page / "page.json").read_text())
    assert (about["title"], len(about["examples"])) == ("tiny", 3)
    assert OnnxPredictor(page / "model").mask_threshold == 0.25


@pytest.mark.parametrize("given", [[], ["--onnx", "b"]])
def test_a_runtime_is_for_a_page(given: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert main(["export", "--weights", "a.pt", "--runtime", "r.tgz", *given]) == 1
    assert "--runtime needs --web DIRECTORY" in caplog.text
