"""Environment of jobs: the Python, the code and the container image that they use."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mobile_sam.system.package_data import CHECKOUT

# Image for `--sdm apptainer`; the default is the result of `docker build` (docs/install.md).
IMAGE = os.environ.get("MOBILE_SAM_IMAGE", "docker-daemon://mobile_sam:cuda")


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that jobs get in addition to those of `environment`.

    Jobs use the Python that runs Snakemake, unless Snakemake deploys one (`--sdm`). They end when
    Snakemake is killed. A deployed Python finds the code of a checkout by PYTHONPATH.
    """
    added = {
        "PATH": _prepend(Path(sys.executable).parent, environment.get("PATH", "")),
        "MOBILE_SAM_JOB": "1",
    }
    if CHECKOUT is not None:
        added["PYTHONPATH"] = _prepend(CHECKOUT, environment.get("PYTHONPATH", ""))
    return added


def _prepend(directory: Path, search_path: str) -> str:
    """Return `search_path`, in the format of PATH, with `directory` at its front."""
    others = [other for other in search_path.split(os.pathsep) if other not in {"", str(directory)}]
    return os.pathsep.join([str(directory), *others])
