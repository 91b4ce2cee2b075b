"""The verb `predict`: masks of prompts on one image, as files."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from mobile_sam.data.images import read_image
from mobile_sam.data.masks import Mask, encode
from mobile_sam.files import whole_files
from mobile_sam.inference.automatic_masks import compressed
from mobile_sam.inference.drawing import overlay, write_mask, write_picture
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.prompt import Prompt, check_within
from mobile_sam.models.device import wait_for
from mobile_sam.models.sam import Sam


@dataclass(frozen=True)
class Answer:
    """A mask (H, W) for one prompt, with the model's own guess of its IoU."""

    prompt: Prompt
    mask: Mask
    predicted_iou: float


def predict_files(
    model: Sam,
    image_path: Path,
    prompts: Sequence[Prompt],
    directory: Path,
    source: dict[str, Any],
    multimask: bool = False,
) -> list[Path]:
    """Write masks, overlay and JSON of prompts on an image into a directory; returns their paths.

    model: in eval mode. source: what the JSON says of the model.
    multimask: three masks for each prompt, by falling predicted_iou, instead of one.
    The JSON comes last; files of an earlier prediction with more masks go.
    Raises RecordError for an image that cannot be read, ConfigError for a prompt outside of it.
    """
    image = read_image(image_path)
    size = image.shape[0], image.shape[1]
    check_within(prompts, size)
    predictor = SamPredictor(model)
    began = time.perf_counter()
    predictor.set_image(image)
    encoded = _now(model)
    answers = [answer for prompt in prompts for answer in _answers(predictor, prompt, multimask)]
    milliseconds = {
        "encode": round(1000 * (encoded - began), 1),
        "decode": round(1000 * (_now(model) - encoded), 1),
    }
    stem = image_path.stem
    masks = [answer.mask for answer in answers]
    names = [f"{stem}_mask_{number}.png" for number in range(1, len(masks) + 1)]
    facts = {
        "image": str(image_path),
        "size": list(size),
        "model": source,
        "mask_threshold": predictor.mask_threshold,
        "milliseconds": milliseconds,
        "masks": [_facts(answer, name) for answer, name in zip(answers, names, strict=True)],
    }
    drawn, told = f"{stem}_overlay.jpg", f"{stem}.json"
    with whole_files(directory, told) as unfinished:
        for name, mask in zip(names, masks, strict=True):
            write_mask(unfinished / name, mask)
        write_picture(unfinished / drawn, overlay(image, masks, prompts))
        (unfinished / told).write_text(json.dumps(facts, indent=1) + "\n")
    for number in count(len(masks) + 1):
        stale = directory / f"{stem}_mask_{number}.png"
        if not stale.exists():
            break
        stale.unlink()
    return [directory / name for name in (*names, drawn, told)]


def _answers(predictor: SamPredictor, prompt: Prompt, multimask: bool) -> list[Answer]:
    found = predictor.predict(**prompt.arguments(), multimask_output=multimask)
    order = np.argsort(-found.predicted_iou, kind="stable")
    return [Answer(prompt, found.masks[n], float(found.predicted_iou[n])) for n in order]


def _facts(answer: Answer, name: str) -> dict[str, Any]:
    prompt, mask = answer.prompt, answer.mask
    return {
        "file": name,
        "box": prompt.box,
        "points": prompt.points,
        "labels": prompt.labels,
        "predicted_iou": answer.predicted_iou,
        "area": int(mask.sum()),
        "segmentation": compressed(encode(mask), (mask.shape[0], mask.shape[1])),
    }


def _now(model: Sam) -> float:
    wait_for(model.device)
    return time.perf_counter()
