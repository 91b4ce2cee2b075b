"""Labels of prompts, metrics and sizes in the report, each with a short description."""

from typing import NamedTuple

FILLED_BOX = "the filled ground-truth box as the mask, a baseline without a model"
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


class Label(NamedTuple):
    """Label for headings, and a description for tooltips and notes."""

    label: str
    description: str


# In the order of all tables.
PROMPTS = {
    "box": Label("box", "ground-truth box; single mask"),
    "point": Label("point", "pixel deepest inside the object; single mask"),
    "center": Label(
        "centre", "centre of the ground-truth box, which may lie outside the object; single mask"
    ),
    "box_best_of_3": Label(
        "box, best of 3", "box; of three masks the best one according to the ground truth (oracle)"
    ),
    "point_best_of_3": Label(
        "point, best of 3",
        "point; of three masks the best one according to the ground truth (oracle)",
    ),
    "box_chosen_of_3": Label(
        "box, top-scored of 3", "box; of three masks the one with the highest predicted IoU"
    ),
    "point_chosen_of_3": Label(
        "point, top-scored of 3", "point; of three masks the one with the highest predicted IoU"
    ),
    "clicks_3": Label("3 clicks", "a click and two corrective clicks on the largest error"),
    "clicks_5": Label("5 clicks", "a click and four corrective clicks on the largest error"),
    "noc": Label("20 clicks", "corrective clicks on the largest error until IoU 0.9, at most 20"),
    "automatic": Label("automatic", "no prompt; the best of all automatic masks of the image"),
}

METRICS = {
    "miou": Label(
        "mIoU", "intersection over union of prediction and ground truth, mean over objects"
    ),
    "dice": Label("Dice", "twice the intersection over the sum of both areas, mean over objects"),
    "boundary_iou": Label(
        "boundary IoU", "IoU of the bands along both outlines, a measure of edge accuracy"
    ),
    "boundary_f": Label("boundary F", "F measure of the two contours, as in DAVIS"),
    "j_and_f": Label("J&F", "mean of IoU and boundary F"),
}

# COCO's limits, https://cocodataset.org/#detection-eval: pixels of an object, upper one exclusive.
SIZE_RANGES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, None)}

AUTOMATIC_METRICS = {
    "ar": Label(
        "AR@1000", "share of objects found, mean over the IoU thresholds 0.50, 0.55, … 0.95"
    ),
    "abo": Label("ABO", "average best overlap: mean IoU of each object with its best mask"),
}


def format_signed(value: float) -> str:
    """Format with three decimals and a sign; zero has no sign."""
    return f"{value:+.3f}".replace("-", MINUS) if round(value, 3) else "0.000"


def prompt_label(prompt: str) -> str:
    """Return the label of a prompt; a prompt that is not in the table keeps its name."""
    return PROMPTS[prompt].label if prompt in PROMPTS else prompt


def sort_prompts(prompts: set[str]) -> list[str]:
    """Sort prompts in the order of all tables, unknown ones last."""
    return [p for p in PROMPTS if p in prompts] + sorted(prompts - set(PROMPTS))


def with_prompt(prompt: str) -> str:
    """Return a phrase for sentences, such as `box prompts` or `3 clicks`."""
    label = prompt_label(prompt)
    return f"{label} prompts" if prompt in {"box", "point", "center"} else label
