"""The Dockerfile as it is written; `test_images.py` builds it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.distributions import TORCH


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile, and what follows it, on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Of each stage of the Dockerfile what it begins from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for name, rest in instructions():
        if name == "FROM":
            source, _, stage = rest.partition(" AS ")
            found[stage] = source, []
        elif found:
            found[list(found)[-1]][1].append((name, rest))
    return found


def test_images_begin_from_the_python_that_the_tests_run_with_or_from_each_other() -> None:
    defaults = dict(
        rest.split("=", 1) for name, rest in instructions() if name == "ARG" and "=" in rest
    )
    assert re.fullmatch(r"3\.11\.\d+-slim-\w+", defaults["PYTHON"])
    assert defaults["TORCH"] == f'"{TORCH}"'
    known: set[str] = set()
    for stage, (source, _) in stages().items():
        assert source in {"python:${PYTHON}", *known}, stage
        known.add(stage)


def test_hadolint_has_nothing_to_say() -> None:
    command = [Path(sys.executable).with_name("hadolint"), "--no-color", ROOT / "Dockerfile"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_images_run_as_nobody_in_particular(stage: str) -> None:
    source, added = stages()[stage]
    assert added[-1] == ("USER", "1000")
    assert "useradd --uid 1000" in dict(stages()[source][1])["RUN"]


def test_what_is_copied_into_an_image_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [w for name, rest in instructions() if name == "COPY" for w in rest.split()[:-1]]
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)
    assert all((ROOT / name).exists() for name in copied)
