"""Code for the original runs unchanged here: clients of it get the same with both packages."""

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mobile_sam.models.weights import to_original
from tests.helpers.commands import ROOT
from tests.helpers.oracle import ORACLE
from tests.helpers.photographs import patchy_model, photograph

TOLERANCE = 1e-4
PIXELS = 1e-4  # the share of a mask that may fall to the other side of the threshold
Answers = dict[str, Any]
CLIENTS = ("notebooks", "onnx_export", "label_studio", "samgeo", "micro_sam", "grounded_sam")


def answers_of(clients: tuple[str, ...], directory: Path) -> tuple[Answers, Answers]:
    """What clients answer with our package, and with the original, in processes side by side."""
    weights, image = directory / "mobile_sam.pt", directory / "image.png"
    torch.save(to_original(patchy_model()), weights)
    Image.fromarray(photograph()).save(image)
    script = ROOT / "tests" / "helpers" / "run_clients.py"
    started = [
        subprocess.Popen(
            [sys.executable, script, weights, image, directory / f"{package.name}.out", *clients],
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(package)},
        )
        for package in (ROOT, ORACLE)
    ]
    assert [process.wait() for process in started] == [0, 0]
    ours, theirs = (
        torch.load(directory / f"{package.name}.out", weights_only=True)
        for package in (ROOT, ORACLE)
    )
    return ours, theirs


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Answers]:
    return answers_of(CLIENTS, tmp_path_factory.mktemp("clients"))


def assert_equal(ours: Any, theirs: Any, where: str = "") -> int:
    """Equal types, shapes and keys, and numbers but for roundings. Returns how many were equal."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        return sum(assert_equal(ours[key], theirs[key], f"{where}.{key}") for key in ours)
    if isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        pairs = enumerate(zip(ours, theirs, strict=True))
        return sum(assert_equal(*pair, f"{where}[{place}]") for place, pair in pairs)
    if isinstance(ours, Tensor):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), where
        if ours.dtype == torch.bool:
            assert (ours != theirs).float().mean() <= PIXELS, where
        else:
            assert (ours - theirs).abs().max() <= TOLERANCE, where
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, abs=1e-3), where
    elif where.endswith(".area"):
        assert ours == pytest.approx(theirs, rel=1e-3), where
    else:
        assert ours == theirs, where
    return 1


@pytest.mark.parametrize("client", CLIENTS)
def test_public_programs_get_the_same(answers: tuple[Answers, Answers], client: str) -> None:
    ours, theirs = answers
    assert [Path(given["package"]).parents[1] for given in answers] == [ROOT, ORACLE]
    assert assert_equal(ours[client], theirs[client], client) >= 15


def test_the_calls_tell_masks_apart(answers: tuple[Answers, Answers]) -> None:
    """Else equal answers would say nothing."""
    ours = answers[0]["notebooks"]
    for found in (ours["predict_torch"]["boxes"][0], *(a["masks"] for a in ours["forward"])):
        areas = found.sum((1, 2, 3)).tolist()
        assert len(set(areas)) == len(areas)
        assert all(0 < area < found[0].numel() for area in areas)
    assert len(ours["generate"]) >= 5
    logits = ours["predict"]
    assert not np.allclose(logits["box True"][0], logits["both True"][0], atol=0.01)
    assert not np.allclose(logits["points True"][0], logits["refined True"][0], atol=0.01)
    rest = answers[0]
    assert len(rest["samgeo"]["second"]) > len(rest["samgeo"]["first"]) >= 2
    assert len(rest["samgeo"]["layered"].unique()) > 2
    assert len(rest["micro_sam"]["everything"]["runs"]) >= 3
    assert len({tuple(box.tolist()) for box in rest["grounded_sam"]["boxes"]}) > 3


MODULES = (
    *("automatic_mask_generator", "build_sam", "predictor"),
    *("modeling.mask_decoder", "modeling.prompt_encoder", "modeling.sam"),
    *("utils.amg", "utils.onnx", "utils.transforms"),
)
# Public names that are missing here, each of which the page names.
MISSING = {
    *("MLP", "PositionEmbeddingRandom"),
    "SamAutomaticMaskGenerator.postprocess_small_regions",
    "SamOnnxModel.resize_longest_image_size",
}


@pytest.mark.parametrize("module", MODULES)
def test_public_names_of_the_original_are_here_or_in_the_table(module: str) -> None:
    path = ORACLE / "mobile_sam" / f"{module.replace('.', '/')}.py"
    ours = import_module(f"mobile_sam.{module}")
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, kinds):
            inner = [n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef)]
            methods = inner if isinstance(node, ast.ClassDef) else []
            names += [node.name, *(f"{node.name}.{method}" for method in methods)]
    page = (ROOT / "docs" / "drop_in.md").read_text()
    for name in (n for n in names if not re.search(r"(^|\.)_", n)):
        first, _, method = name.partition(".")
        if first in MISSING or name in MISSING:
            missing = first if first in MISSING else method
            assert f"`{missing}`" in page, name
        else:
            assert hasattr(getattr(ours, first), method or "__doc__"), name


def test_the_table_of_programs_names_each_client() -> None:
    page = (ROOT / "docs" / "drop_in.md").read_text()
    named = re.findall(r"\]\(\.\./tests/helpers/clients/(\w+)\.py\)", page)
    assert sorted(named) == sorted(CLIENTS)
    files = (ROOT / "tests" / "helpers" / "clients").glob("*.py")
    assert sorted(path.stem for path in files if path.stem != "__init__") == sorted(CLIENTS)
