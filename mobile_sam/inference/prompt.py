"""Prompts: boxes and points in pixels of the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobile_sam.system.errors import ConfigError

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """Prompt for one object, in the image frame in pixels.

    box: xyxy. points: xy. labels: 1 for a foreground point, 0 for a background point.
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Return the prompt as arguments of `SamPredictor.predict`."""
        arguments: dict[str, Any] = {}
        if self.box is not None:
            arguments["box"] = np.array(self.box)
        if self.points:
            arguments["point_coords"] = np.array(self.points)
            arguments["point_labels"] = np.array(self.labels)
        return arguments


def build_prompts(
    boxes: Sequence[Sequence[float]],
    points: Sequence[Sequence[float]],
    background: Sequence[Sequence[float]],
) -> list[Prompt]:
    """Build the prompts of a command line: one for each box, or one for all points.

    boxes: (4,) xyxy each. points, background: foreground and background points, (2,) xy each; with
    one box, they belong to its prompt.
    Raises ConfigError if there is no prompt, for points with several boxes, and for a box without
    an area.
    """
    if not boxes and not points:
        raise ConfigError("there is no prompt; give --box X0 Y0 X1 Y1 or --point X Y, in pixels")
    if len(boxes) > 1 and (points or background):
        raise ConfigError(
            f"--point with {len(boxes)} boxes: a point needs a single box; give points with one "
            "box at most"
        )
    for x0, y0, x1, y1 in boxes:
        if x0 >= x1 or y0 >= y1:
            raise ConfigError(
                f"--box {x0:g} {y0:g} {x1:g} {y1:g}: it has no area; give the left, upper, right "
                "and lower edge"
            )
    coords = tuple((x, y) for x, y in (*points, *background))
    labels = (1,) * len(points) + (0,) * len(background)
    if not boxes:
        return [Prompt(None, coords, labels)]
    return [Prompt((x0, y0, x1, y1), coords, labels) for x0, y0, x1, y1 in boxes]


def check_within(prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
    """Raise ConfigError for a point outside an image of (H, W), or a box that misses it."""
    height, width = size
    for prompt in prompts:
        for x, y in prompt.points:
            if not (0 <= x <= width and 0 <= y <= height):
                raise ConfigError(f"point {x:g} {y:g}: the image is {width} x {height} pixels")
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
                raise ConfigError(
                    f"box {x0:g} {y0:g} {x1:g} {y1:g}: the image is {width} x {height} pixels"
                )
