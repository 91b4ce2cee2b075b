"""The command `predict`: write the masks of prompts on one image."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.coordinates import ThinImageError
from mobile_sam.data.images import RecordError, read_image
from mobile_sam.data.masks import EncodedMasks, Mask, encode
from mobile_sam.inference.automatic_masks import compressed_rle
from mobile_sam.inference.drawing import overlay, write_jpeg, write_mask
from mobile_sam.inference.prediction_files import (
    check_replaced,
    exclusive,
    free_stem,
    is_prediction_file,
)
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.prompt import Prompt, check_within
from mobile_sam.models.device import wait_for
from mobile_sam.models.sam import Sam
from mobile_sam.system.atomic_files import atomic_write_files
from mobile_sam.system.outputs import claim_output


@dataclass(frozen=True)
class PredictedMask:
    """Mask (H, W) of one prompt, with the IoU that the model predicts for it."""

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
    """Write masks, overlay and JSON of prompts on an image into a directory; return their paths.

    model: in eval mode. source: description of the model for the JSON.
    multimask: three masks for each prompt, by falling predicted_iou, instead of one.
    The JSON is written last; other files of an earlier prediction on the same image are removed.
    Files of another image of the same name stay, and the new files get a number.
    Raises RecordError for an image that cannot be read; ConfigError for a prompt outside of it, and
    for a file in the way that `predict` did not write.
    """
    image = read_image(image_path, model.image_options)
    size = image.shape[0], image.shape[1]
    check_within(prompts, size)
    predictor = SamPredictor(model)
    started = time.perf_counter()
    try:
        predictor.set_image(image)
    except ThinImageError as error:
        raise RecordError(f"{image_path}: {error}") from error
    encoded = _now(model)
    masks = [mask for prompt in prompts for mask in _predict(predictor, prompt, multimask)]
    content = {
        "image": str(image_path),
        "image_path": str(image_path.resolve()),
        "size": list(size),
        "model": source,
        "mask_threshold": predictor.mask_threshold,
        "milliseconds": {
            "encode": round(1000 * (encoded - started), 1),
            "decode": round(1000 * (_now(model) - encoded), 1),
        },
    }
    claim_output(directory, "--out", is_prediction_file)
    with exclusive(directory):
        stem = free_stem(directory, image_path)
        return _write(directory, stem, image, masks, content)


def _write(
    directory: Path,
    stem: str,
    image: NDArray[np.uint8],
    masks: Sequence[PredictedMask],
    content: dict[str, Any],
) -> list[Path]:
    names = [f"{stem}_mask_{number}.png" for number in range(1, len(masks) + 1)]
    overlay_name, json_name = f"{stem}_overlay.jpg", f"{stem}.json"
    entries = [_mask_entry(mask, name) for mask, name in zip(masks, names, strict=True)]
    content = content | {"overlay": overlay_name, "masks": entries}
    prompts = list(dict.fromkeys(mask.prompt for mask in masks))
    codes = (encode(mask.mask) for mask in masks)
    encoded_masks = EncodedMasks(codes, (image.shape[0], image.shape[1]))
    with atomic_write_files(directory, json_name) as unfinished:
        for name, mask in zip(names, masks, strict=True):
            write_mask(unfinished / name, mask.mask)
        write_jpeg(unfinished / overlay_name, overlay(image, encoded_masks, prompts))
        text = json.dumps(content, indent=1) + "\n"
        (unfinished / json_name).write_text(text, encoding="utf-8")
        before = check_replaced(directory, unfinished, json_name)
    for name in before - {*names, overlay_name, json_name}:
        (directory / name).unlink(missing_ok=True)
    return [directory / name for name in (*names, overlay_name, json_name)]


def _predict(predictor: SamPredictor, prompt: Prompt, multimask: bool) -> list[PredictedMask]:
    masks, predicted_iou, _ = predictor.predict(**prompt.arguments(), multimask_output=multimask)
    order = np.argsort(-predicted_iou, kind="stable")
    return [PredictedMask(prompt, masks[i], float(predicted_iou[i])) for i in order]


def _mask_entry(predicted: PredictedMask, name: str) -> dict[str, Any]:
    prompt, mask = predicted.prompt, predicted.mask
    return {
        "file": name,
        "box": prompt.box,
        "points": prompt.points,
        "labels": prompt.labels,
        "predicted_iou": predicted.predicted_iou,
        "area": int(mask.sum()),
        "segmentation": compressed_rle(encode(mask), (mask.shape[0], mask.shape[1])),
    }


def _now(model: Sam) -> float:
    wait_for(model.device)
    return time.perf_counter()
