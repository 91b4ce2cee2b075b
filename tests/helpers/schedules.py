"""Settings of runs by their schedule."""

from typing import Any

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig


def run(num_epochs: int = 10, **changes: Any) -> RunConfig:
    settings = {
        "run_name": "x",
        "num_epochs": num_epochs,
        "teacher_checkpoint": "random",
        "teacher_model_type": "vit_b",
    }
    return parse_config(settings | changes, "x.json")


def entry(start: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"start_epoch": start, "end_epoch": end, **changes}
