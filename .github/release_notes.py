"""Print the release notes of a version: its section of CHANGELOG.md.

    python .github/release_notes.py v0.1.0

Fails unless the tag is the version in pyproject.toml and its section has a date.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def release_notes(tag: str, version: str, changelog: str) -> str:
    """Return the section of `changelog` for the version that `tag` names.

    Raises ValueError if the tag is another version, or the section is missing, empty or undated.
    """
    if tag != f"v{version}":
        raise ValueError(f"tag {tag}: pyproject.toml has version {version}; tag v{version} instead")
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    for section in sections:
        heading, _, notes = section.partition("\n")
        if heading.strip("[ ").startswith(version):
            if not re.search(r"\d{4}-\d{2}-\d{2}", heading):
                raise ValueError(f"CHANGELOG.md: give the date in the heading {heading!r}")
            if not notes.strip():
                raise ValueError(f"CHANGELOG.md: the section {heading!r} is empty")
            return notes.strip()
    raise ValueError(f"CHANGELOG.md: add a section for version {version}")


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    try:
        print(release_notes(sys.argv[1], project["version"], (ROOT / "CHANGELOG.md").read_text()))
    except ValueError as error:
        sys.exit(f"error: {error}")
