"""The finished run that pages speak of."""

import json
import shutil
from pathlib import Path

RUN = Path("results/mobile_sam/my_run")


def copy_run(name: str) -> None:
    """The finished run once more, under another name."""
    settings = json.loads((RUN / "run.json").read_text())
    copy = Path(shutil.copytree(RUN, RUN.with_name(name)))
    (copy / "run.json").write_text(json.dumps(settings | {"run_name": name}))
