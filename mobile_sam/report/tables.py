"""What a run measured, as data frames."""

import pandas as pd

from mobile_sam.config import ConfigError, RunConfig
from mobile_sam.layout import RunPaths, validated
from mobile_sam.schedule import normalise


def objects_table(config: RunConfig) -> pd.DataFrame:
    """One row for each validated segment, prompt and checkpoint, in the order of the tables."""
    return pd.concat([_read(config, what) for what in validated(config)], ignore_index=True)


def _read(config: RunConfig, what: str) -> pd.DataFrame:
    path = RunPaths(config).validation(what)
    if not path.is_file():
        raise ConfigError(f"{path}: missing; run `validate --what {what}` first")
    return pd.read_parquet(path)


def summary(objects: pd.DataFrame) -> pd.DataFrame:
    """Mean IoU and Dice: columns checkpoint, prompt, objects, miou, dice."""
    groups = objects.groupby(["checkpoint", "prompt"], sort=False)
    table = groups.agg(objects=("iou", "size"), miou=("iou", "mean"), dice=("dice", "mean"))
    return table.reset_index()


def epochs_table(config: RunConfig) -> pd.DataFrame:
    """One row for each epoch of all stages, with the stage's `NN_name` in column `stage`."""
    frames = []
    for stage in normalise(config):
        path = RunPaths(config).metrics(stage)
        if not path.is_file():
            raise ConfigError(f"{path}: missing; train stage {stage.directory} first")
        frames.append(pd.read_csv(path).assign(stage=stage.directory))
    return pd.concat(frames, ignore_index=True)


def verdict(table: pd.DataFrame, config: RunConfig) -> str:
    """What the stages bought, in a sentence with numbers."""
    boxes = table[table["prompt"] == "box"].set_index("checkpoint")["miou"]
    steps = ["start", *(stage.directory for stage in normalise(config))]
    best = max(steps, key=lambda name: boxes[name])
    course = ", then ".join(f"{boxes[name]:.3f} ({name})" for name in steps)
    baseline = boxes["box_filled"]
    relation = "above" if boxes[best] > baseline else "not above"
    words = (
        f"By box, mIoU went {course}. The best is {best} with {boxes[best]:.3f}, "
        f"{relation} the filled box ({baseline:.3f})"
    )
    teachers = [name for name in boxes.index if name.startswith("teacher")]
    if len(teachers) == 1:
        words += f"; the teacher reaches {boxes['teacher']:.3f}"
    elif teachers:
        each = ", ".join(f"{boxes[name]:.3f} ({name})" for name in teachers)
        words += f"; the teachers reach {each}"
    return words + "."
