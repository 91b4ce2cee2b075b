"""Prints the lowest version of each dependency, as constraints for pip; all but torch.

Other builds of torch are gigabytes; it is taken as it is pinned in the Makefile.
"""

import tomllib

from packaging.requirements import Requirement

from tests.helpers.commands import ROOT


def constraints() -> list[str]:
    """A line for each dependency of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = []
    for requirement in map(Requirement, project["dependencies"]):
        (lowest,) = (s.version for s in requirement.specifier if s.operator == ">=")
        if not requirement.name.startswith("torch"):
            # ~= takes the builds of a release, such as 4.10.0.84.
            lines.append(f"{requirement.name}~={lowest}{'.0' * (3 - lowest.count('.'))}")
    return lines


if __name__ == "__main__":
    print("\n".join(constraints()))
