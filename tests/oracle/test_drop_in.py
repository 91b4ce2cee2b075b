"""Code for the original runs unchanged here: the same script gives the same with both packages."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mobile_sam.models.weights import to_original
from tests.conftest import ROOT
from tests.oracle.drawn import patchy_model, photograph
from tests.oracle.processes import ORACLE

TOLERANCE = 1e-4
PIXELS = 1e-4  # the share of a mask that may fall to the other side of the threshold
Answers = dict[str, Any]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Answers]:
    """What the example calls give with our package, and with the original."""
    directory = tmp_path_factory.mktemp("calls")
    weights, image = directory / "mobile_sam.pt", directory / "image.png"
    torch.save(to_original(patchy_model()), weights)
    Image.fromarray(photograph()).save(image)
    found = []
    for package in (ROOT, ORACLE):
        target = directory / f"{len(found)}.pt"
        script = Path(__file__).with_name("example_calls.py")
        subprocess.run(
            [sys.executable, script, weights, image, target],
            check=True,
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(package)},
        )
        found.append(torch.load(target, weights_only=True))
    return found[0], found[1]


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


CALLS = ("predict", "predict_torch", "forward", "generate")


@pytest.mark.parametrize("part", CALLS)
def test_calls_of_the_original_give_the_same(answers: tuple[Answers, Answers], part: str) -> None:
    ours, theirs = answers
    assert assert_equal(ours[part], theirs[part], part) >= 6


def test_attributes_of_the_original_are_the_same(answers: tuple[Answers, Answers]) -> None:
    homes = [Path(given["package"]).parents[1] for given in answers]
    assert homes == [ROOT, ORACLE]
    rest = ({k: v for k, v in a.items() if k not in (*CALLS, "package")} for a in answers)
    ours, theirs = rest
    assert list(ours) == ["names", "facts", "colours", "sizes", "embedding", "is_image_set"]
    assert len(ours["names"]) == 5
    assert ours["is_image_set"] is False
    assert_equal(ours, theirs)


def test_the_calls_tell_masks_apart(answers: tuple[Answers, Answers]) -> None:
    """Else equal answers would say nothing."""
    ours, _ = answers
    for found in (ours["predict_torch"]["boxes"][0], *(a["masks"] for a in ours["forward"])):
        areas = found.sum((1, 2, 3)).tolist()
        assert len(set(areas)) == len(areas)
        assert all(0 < area < found[0].numel() for area in areas)
    assert len(ours["generate"]) >= 5
    logits = ours["predict"]
    assert not np.allclose(logits["box True"][0], logits["both True"][0], atol=0.01)
    assert not np.allclose(logits["points True"][0], logits["refined True"][0], atol=0.01)
