"""Write the tested set of packages for the running Python, as constraints for pip.

    python requirements/lock.py torch==2.14.1 torchvision==0.29.1

writes `lock-3.11.txt` beside this script when Python 3.11 runs it. pip resolves the requirements
together with this project and its `dev` extra, as in an empty environment, and installs nothing.
`make lock` runs it with each tested Python.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADER = """\
# Tested set of packages for Python {python} on Linux x86_64; `make lock` writes it.
# Use it as constraints: pip install -c requirements/lock-{python}.txt -e '.[dev]'
# torch is the build of the default index, with CUDA. A build for CPUs of the same version fits as
# well, and does not need the packages that begin with nvidia- and cuda-."""


def resolve(requirements: list[str]) -> dict[str, str]:
    """Return name and version of each package that pip would install, without this project."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--disable-pip-version-check", "--report", "-"]
    command += [*requirements, "--editable", f"{ROOT}[dev]"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    packages = [entry["metadata"] for entry in json.loads(printed)["install"]]
    versions = {
        re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"] for package in packages
    }
    del versions["mobile-sam"]
    return dict(sorted(versions.items()))


def main() -> None:
    """Write the lock file of the running Python."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    pins = [f"{name}=={version}" for name, version in resolve(sys.argv[1:]).items()]
    path = Path(__file__).with_name(f"lock-{python}.txt")
    path.write_text("\n".join([HEADER.format(python=python), *pins, ""]))
    print(path)


if __name__ == "__main__":
    main()
