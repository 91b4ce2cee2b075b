"""What is shipped beside the code: runs, the workflow and its profiles.

A checkout has them at its root, an installed wheel inside of the package.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_INSTALLED = (_PACKAGE / "configs").is_dir()
CONFIG_DIR = (_PACKAGE if _INSTALLED else _PACKAGE.parent) / "configs"
_WORKFLOW = _PACKAGE / "snakemake" if _INSTALLED else _PACKAGE.parent

PLACES = {
    "snakefile": _WORKFLOW / "Snakefile",
    "configs": CONFIG_DIR,
    "profiles": _WORKFLOW / "profiles",
}
