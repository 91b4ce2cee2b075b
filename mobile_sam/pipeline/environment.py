"""Environment of jobs: the Python, the code and the container image that they use."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mobile_sam.system.package_data import CHECKOUT

# Image for `--sdm apptainer`, by default the one that `docker build` makes (docs/install.md).
IMAGE = os.environ.get("MOBILE_SAM_IMAGE", "docker-daemon://mobile_sam:cuda")


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that jobs get besides those of `environment`.

    Jobs use the Python that runs Snakemake, unless Snakemake deploys one (`--sdm`), and end when
    Snakemake is killed. A deployed Python finds the code of a checkout by PYTHONPATH.
    """
    added = {
        "PATH": _prepended(environment.get("PATH", ""), Path(sys.executable).parent),
        "MOBILE_SAM_JOB": "1",
    }
    if CHECKOUT is not None:
        added["PYTHONPATH"] = _prepended(environment.get("PYTHONPATH", ""), CHECKOUT)
    return added


def _prepended(places: str, first: Path) -> str:
    """Return `places`, separated as in PATH, with `first` in front."""
    others = [place for place in places.split(os.pathsep) if place not in {"", str(first)}]
    return os.pathsep.join([str(first), *others])
