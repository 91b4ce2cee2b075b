"""Generated reference of all settings: the JSON Schema and the tables of configs/README.md."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mobile_sam.config.keys import AFFECTS
from mobile_sam.config.renames import RENAMED
from mobile_sam.config.run import RunConfig, affects
from mobile_sam.config.sections import Teacher
from mobile_sam.config.stage import StageInterval, StageSettings
from mobile_sam.system.package_data import CONFIG_DIR

_HEAD = """# Configuration

One flat JSON per run. This page and `schema.json` are generated from `mobile_sam/config/` by
`python -m mobile_sam schema`; do not edit them by hand.

Precedence: defaults < the run's JSON < the overlay < the command line
(`--config run=NAME overlay=NAME key=value`). A given key replaces the whole value, not parts of it.
On the command line, `train_img_dir`, `train_mask_dir`, `val_img_dir`, `val_mask_dir`,
`unlabelled_img_dir`, `data`, `synthetic`, `img_size`, `project_name`, `output_dir`, `seed` and
`num_workers` also apply to teacher runs; all other keys apply to the named runs only. A
`num_epochs` from an overlay or the command line scales the schedule in proportion.
"""
_STAGE_KEYS = """
## Keys that a stage can override

The values of the run are the defaults of its stages.
"""
_SCHEDULE = """
## An entry of `stage_schedule`

An entry can also set the keys of the table above; keys that it leaves out have the values of the
run. `loss_weights` can be given in part. Epochs without an entry become a stage with the settings
of the run; nothing carries over from one entry to the next.
"""

_RENAMED = """
## Old names

These old names are still read, with a warning. Giving a setting under both names is an error.
"""


def json_schema() -> str:
    """Return the JSON Schema of a run, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=2, sort_keys=True) + "\n"


def reference() -> str:
    """Return the text of configs/README.md."""
    per_stage = list(StageSettings.model_fields)
    lines = [_HEAD, *_keys([key for key in RunConfig.model_fields if key not in per_stage])]
    lines += [_STAGE_KEYS, *_keys(per_stage)]
    lines += [_SCHEDULE, "| key | default | meaning |", "|---|---|---|"]
    lines += _entries(StageInterval)
    lines += ["", "## An entry of `extra_teachers`", "", "| key | default | meaning |"]
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
    lines += [_RENAMED, "| old name | name |", "|---|---|"]
    lines += [f"| `{old}` | `{new}` |" for old, new in RENAMED.items()]
    lines.append("| `warmup_steps` below 1 | `warmup_fraction` |")
    return "\n".join(lines) + "\n"


def _keys(names: list[str]) -> list[str]:
    """Return the rows of a table of keys of a run."""
    rows = ["| key | default | meaning | a change reruns |", "|---|---|---|---|"]
    for key in names:
        field = RunConfig.model_fields[key]
        name = field.alias or key
        default = json.dumps(_json_value(field.get_default(call_default_factory=True)))
        jobs = "nothing" if name == "$schema" else AFFECTS[affects(key)]
        rows.append(f"| `{name}` | `{default}` | {field.description} | {jobs} |")
    return rows


def _entries(model: type[BaseModel]) -> list[str]:
    rows = []
    for key, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        rows.append(f"| `{key}` | {default} | {field.description} |")
    return rows


def write_reference() -> list[Path]:
    """Write `schema.json` and `README.md` to `configs/`, and return their paths."""
    targets = {CONFIG_DIR / "schema.json": json_schema(), CONFIG_DIR / "README.md": reference()}
    for path, text in targets.items():
        path.write_text(text, encoding="utf-8")
    return list(targets)


def _json_value(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value
