"""What the report calls prompts, measures and sizes, and a sentence that explains each."""

from typing import NamedTuple

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


class Words(NamedTuple):
    """A label for headings, and what it means in simple words."""

    label: str
    meaning: str


# In the order of all tables.
PROMPTS = {
    "box": Words("box", "the ground-truth box; the one mask that is the answer to it"),
    "point": Words("point", "the pixel deepest inside the segment; the one mask"),
    "center": Words(
        "centre", "the centre of the ground-truth box, which may lie outside; one mask"
    ),
    "box_best_of_3": Words(
        "box, best of 3", "the box; of three masks the one that fits best, as no user could know"
    ),
    "point_best_of_3": Words(
        "point, best of 3",
        "the point; of three masks the one that fits best, as no user could know",
    ),
    "box_chosen_of_3": Words(
        "box, chosen of 3", "the box; of three masks the one that the model itself rates highest"
    ),
    "point_chosen_of_3": Words(
        "point, chosen of 3", "the point; of three masks the one that the model rates highest"
    ),
    "clicks_3": Words("3 clicks", "a click, and two that correct the largest error"),
    "clicks_5": Words("5 clicks", "a click, and four that correct the largest error"),
    "noc": Words("20 clicks", "clicks that correct the largest error, up to twenty"),
    "automatic": Words(
        "automatic", "no prompt: the best of all masks that were found in the image by themselves"
    ),
}

MEASURES = {
    "miou": Words("mIoU", "intersection over union of prediction and truth, mean over segments"),
    "dice": Words("Dice", "twice the intersection over the sum of both areas; kinder than IoU"),
    "boundary_iou": Words(
        "boundary IoU", "IoU of the bands along both outlines; says whether the edge is right"
    ),
    "boundary_f": Words("boundary F", "share of outline that lies on the other outline, both ways"),
    "j_and_f": Words("J&F", "mean of IoU and boundary F"),
}

# COCO's limits, https://cocodataset.org/#detection-eval: pixels of a segment, upper one exclusive.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, None)}

AUTOMATIC = {
    "ar": Words("AR@1000", "share of segments found, mean over the limits IoU 0.50, 0.55, … 0.95"),
    "abo": Words("ABO", "mean IoU of each segment with the mask that fits it best"),
}


def signed(value: float) -> str:
    """Three decimals with a sign, which zero has not."""
    return f"{value:+.3f}".replace("-", MINUS) if round(value, 3) else "0.000"


def prompt_label(prompt: str) -> str:
    """How headings call a prompt; one that is not in the table keeps its name."""
    return PROMPTS[prompt].label if prompt in PROMPTS else prompt


def in_order(prompts: set[str]) -> list[str]:
    """Prompts in the order of all tables, unknown ones last."""
    return [p for p in PROMPTS if p in prompts] + sorted(prompts - set(PROMPTS))
