"""Paths of files shipped with the code: runs, the workflow and its profiles.

In a checkout they are in the root directory, in an installed wheel inside the package.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = (_PACKAGE / "configs").is_dir()
# The directory of the repository; None for an installed wheel.
CHECKOUT = None if _INSTALLED else _PACKAGE.parent
CONFIG_DIR = (_PACKAGE if _INSTALLED else _PACKAGE.parent) / "configs"
_WORKFLOW = _PACKAGE / "snakemake" if _INSTALLED else _PACKAGE.parent

PLACES = {
    "snakefile": _WORKFLOW / "Snakefile",
    "configs": CONFIG_DIR,
    "profiles": _WORKFLOW / "profiles",
}
