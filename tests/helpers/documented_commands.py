"""The commands on the pages: what a reader of README.md and docs/ types."""

import re
import shlex
from typing import NamedTuple

from tests.helpers.commands import ROOT

PAGES = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md"),
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")),
)
# What begins a command, where it is the first word of a line of code.
PROGRAMS = frozenset(
    [
        *("apptainer", "bash", "cd", "conda", "cp", "curl", "docker", "git", "jupyter", "make"),
        *(
            "mobile-sam",
            "mv",
            "npm",
            "npx",
            "pip",
            "pipx",
            "podman",
            "pre-commit",
            "mkdir",
            "shtab",
            "pytest",
            "python",
        ),
        *("python3", "rsync", "salloc", "sbatch", "scp", "singularity", "snakemake", "source"),
        *("srun", "ssh", "tensorboard", "torchrun", "uv", "wget"),
    ]
)
CODE = re.compile(r" {4,}|\t")
# Names for what the pages leave open, and what a shell would put there.
PLACES = {
    "<project>": "mobile_sam",
    "<run>": "my_run",
    "$(mobile-sam where)": "Snakefile",
    "$(mobile-sam where profiles)": "profiles",
}
ASSIGNMENTS = re.compile(r"(?:\w+=\S+ +)*")


class Command(NamedTuple):
    """A command as it stands on a page, on one line; line: where it ends."""

    page: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """What a shell makes of it, with names for what the page leaves open."""
        text = self.text
        for name, instead in PLACES.items():
            text = text.replace(name, instead)
        return shlex.split(text, comments=True)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def commands() -> list[Command]:
    """All of them, in the order of the pages; of equal ones the first."""
    found: dict[tuple[str, ...], Command] = {}
    for page in PAGES:
        for line, text in of_page((ROOT / page).read_text()):
            command = Command(page, line, text)
            found.setdefault(tuple(command.words), command)
    return list(found.values())


def of_page(markdown: str) -> list[tuple[int, str]]:
    """Line and text of each command: a line of code, indented or fenced, that begins with one."""
    found, fenced, begun = [], False, ""
    for number, line in enumerate(markdown.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        text = begun + line.strip().removeprefix("$ ")
        begun = ""
        word = ASSIGNMENTS.sub("", text, count=1).split(maxsplit=1)[:1]
        if not (fenced or CODE.match(line)) or not PROGRAMS.intersection(word):
            continue
        if text.endswith("\\"):
            begun = text[:-1]
        else:
            found.append((number, text))
    return found
