"""The reference of all settings, generated: the JSON Schema and the tables of configs/README.md."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mobile_sam.config import AFFECTS, RunConfig, affects
from mobile_sam.options import StageEntry, Teacher
from mobile_sam.shipped import CONFIG_DIR

_HEAD = """# Configuration

One flat JSON per run. This page and `schema.json` are generated from `mobile_sam/config.py` by
`python -m mobile_sam schema`; do not edit them by hand.

Precedence: defaults < the run's JSON < the overlay < the command line
(`--config run=NAME overlay=NAME key=value`). A key that is given replaces the whole value below it.
`train_img_dir`, `train_mask_dir`, `val_img_dir`, `val_mask_dir`, `unlabelled_img_dir`, `data`,
`img_size`, `project_name`, `output_dir`, `seed` and `num_workers` on the command line hold for
teacher runs too; all other keys hold for the named runs only. A `num_epochs` from an overlay or the
command line scales the schedule in proportion.
"""
_SCHEDULE = """
## An entry of `stage_schedule`

Epochs that no entry covers become a stage of their own with the settings of the run; nothing is
carried over from one entry to the next.
"""


def json_schema() -> str:
    """The JSON Schema of a run, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=2, sort_keys=True) + "\n"


def reference() -> str:
    """The text of configs/README.md."""
    lines = [_HEAD, "| key | default | meaning | a change does again |", "|---|---|---|---|"]
    for key, field in RunConfig.model_fields.items():
        name = field.alias or key
        default = json.dumps(_plain(field.get_default(call_default_factory=True)))
        again = "nothing" if name == "$schema" else AFFECTS[affects(key)]
        lines.append(f"| `{name}` | `{default}` | {field.description} | {again} |")
    lines += [_SCHEDULE, "| key | default | meaning |", "|---|---|---|"]
    lines += _entries(StageEntry)
    lines += ["", "## An entry of `more_teachers`", "", "| key | default | meaning |"]
    lines += ["|---|---|---|", *_entries(Teacher)]
    for key, field in RunConfig.model_fields.items():
        model = field.default_factory
        if isinstance(model, type) and issubclass(model, BaseModel):
            lines += [
                "",
                f"## Parts of `{key}`",
                "",
                "| key | default | meaning |",
                "|---|---|---|",
            ]
            for part, inner in model.model_fields.items():
                lines.append(f"| `{part}` | `{json.dumps(inner.default)}` | {inner.description} |")
    return "\n".join(lines) + "\n"


def _entries(model: type[BaseModel]) -> list[str]:
    rows = []
    for key, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        rows.append(f"| `{key}` | {default} | {field.description} |")
    return rows


def write_reference() -> list[Path]:
    """Write both files; returns their paths."""
    targets = {CONFIG_DIR / "schema.json": json_schema(), CONFIG_DIR / "README.md": reference()}
    for path, text in targets.items():
        path.write_text(text)
    return list(targets)


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value
