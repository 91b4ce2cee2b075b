"""Every command on the pages runs as it stands there, or is named below with the reason why not."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mobile_sam.__main__ import COMMANDS as ALL_COMMANDS
from mobile_sam.__main__ import main
from mobile_sam.cli.command import parser
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.schedule import normalise
from tests.helpers.commands import ROOT
from tests.helpers.documented_commands import PAGES, Command, commands

COMMANDS = commands()
# What no test runs, by how it begins, and why.
NOT_RUN = {
    "MOBILE_SAM_CACHE=weights mobile-sam fetch": "downloads weights",
    "conda ": "is not there",
    "cp ": "tests/packaging does the same",
    "docker ": "is not there; tests/packaging reads the Dockerfile",
    "mobile-sam --help": "tests/packaging",
    "mv ": "tests/packaging does the same",
    "pip download": "downloads packages",
    "pip install --no-index": "tests/packaging",
    "pip install dist/": "tests/packaging",
    "pip install -c requirements/": "installs packages",
    "snakemake --cores all --sdm": "needs conda or a container engine; tests/workflow plans it",
    "pip install onnxruntime numpy": "installs packages",
    "pip install openvino": "installs packages",
    "pipx run pip-audit": "asks the network",
    "pytest -m long": "is a test itself",
    "python -c": "says whether there is a GPU",
    "python -m build": "tests/packaging",
    "python -m http.server": "serves until it is ended",
    "python -m mobile_sam app": "serves until it is ended; tests/app",
    "python -m mobile_sam export --config results/mobile_sam/my_run/run.json --web": "asks npm for "
    "the runtime; tests/export gives it one",
    "python -m mobile_sam fetch nuclei": "downloads a data set",
    "python benchmarks/": "takes minutes to hours; that the script exists is tested",
    "python3 -m venv": "tests/packaging",
    "shtab ": "tests/cli/test_main.py does the same",
    "mkdir ": "makes a place for completion",
    "pip install shtab": "installs a package",
    "source ": "changes the shell",
}
UNRUN = tuple(NOT_RUN)


def starting(*words: str) -> list[Command]:
    """Commands that begin with these words and are run."""
    return [
        command
        for command in COMMANDS
        if tuple(command.words[: len(words)]) == words and not command.text.startswith(UNRUN)
    ]


VERBS = starting("python", "-m", "mobile_sam")
# These take long, and are run with `make test-long`; each time they are only read.
SLOW = ("cost", "evaluate", "export")
PLANS = starting("snakemake")
MAKE = starting("make")
EXTRAS = [command for command in starting("pip", "install") if command.words[2] == "-e"]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.long] if command.words[3] in SLOW else [])
        for command in VERBS
    ],
    ids=str,
)
def test_a_verb_does_what_the_page_says(command: Command, workplace: Path) -> None:
    found = [sorted(Path().glob(word)) if "*" in word else [word] for word in command.words[3:]]
    assert main([str(word) for words in found for word in words]) == 0


def test_each_verb_takes_what_the_page_gives_it() -> None:
    typed = [c for c in COMMANDS if c.words[:3] == ["python", "-m", "mobile_sam"]]
    assert set(VERBS) < set(typed)
    for command in typed:
        assert parser(ALL_COMMANDS).parse_args(command.words[3:]).command == command.words[3]


@pytest.fixture(scope="module")
def planned(workplace: Path) -> dict[Command, list[Any]]:
    """Exit status and output of each command of Snakemake, as a dry run."""
    asked = json.dumps([command.words[1:] for command in PLANS])
    result = subprocess.run(
        [sys.executable, "-m", "tests.helpers.snakemake_plans"],
        input=asked,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return dict(zip(PLANS, json.loads(result.stdout), strict=True))


@pytest.mark.parametrize("command", PLANS, ids=str)
def test_snakemake_plans_what_the_page_says(
    command: Command, planned: dict[Command, list[Any]]
) -> None:
    status, said = planned[command]
    assert status == 0, said
    assert "total" in said or "Nothing to be done" in said


@pytest.mark.parametrize("command", MAKE, ids=str)
def test_make_has_the_target(command: Command) -> None:
    assert re.search(rf"^{command.words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", EXTRAS, ids=str)
def test_the_package_has_the_extra(command: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extra,) = re.fullmatch(r"\.\[(\w+)\]", command.words[3]).groups()
    assert extra in project["optional-dependencies"]


def test_no_command_is_left_out() -> None:
    tested = {*VERBS, *PLANS, *MAKE, *EXTRAS}
    left = [c for c in COMMANDS if c not in tested and not c.text.startswith(UNRUN)]
    assert not left, f"test them, or say in NOT_RUN why not: {left}"
    assert len(VERBS) > 20
    assert len(PLANS) > 10


def test_nothing_is_excused_that_is_on_no_page() -> None:
    texts = [command.text for command in COMMANDS]
    assert [how for how in NOT_RUN if not any(text.startswith(how) for text in texts)] == []


def test_scripts_on_the_pages_exist() -> None:
    named = {script for page in PAGES for script in re.findall(r"benchmarks/\w+\.\w+", read(page))}
    assert len(named) > 15
    assert [script for script in sorted(named) if not (ROOT / script).is_file()] == []


def test_settings_on_the_pages_are_settings() -> None:
    found = [settings for page in PAGES for settings in json_blocks(read(page))]
    assert len(found) > 8
    for text, settings in found:
        normalise(parse_config(settings, text), text)


def read(page: str) -> str:
    return (ROOT / page).read_text()


def json_blocks(markdown: str) -> list[tuple[str, dict[str, object]]]:
    """Indented blocks that begin with a brace, read as JSON, with how they begin."""
    blocks = re.findall(r"(?:^|\n\n)((?: {4}.*\n)+)", markdown)
    braces = [block.strip() for block in blocks if block.strip().startswith("{")]
    return [(block[:60], json.loads(block)) for block in braces]
