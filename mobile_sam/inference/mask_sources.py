"""What `segment` asks of each image of a directory: everything that is in it, or given boxes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mobile_sam.data.boxes import BoxFile, Corners, GivenBox, ImageBoxes
from mobile_sam.data.images import RecordError
from mobile_sam.data.masks import encode
from mobile_sam.inference.automatic_masks import automatic_masks, compressed, facts, xywh
from mobile_sam.inference.grid import Crop
from mobile_sam.inference.memory import points_at_once
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.proposals import AutomaticOptions, box_and_area, stable_masks
from mobile_sam.models.sam import Sam

Records = list[dict[str, Any]]
_ALL = AutomaticOptions(stability_score_thresh=0)
_ONLY_SPEED = {"points_per_batch"}


class Requested(Protocol):
    """What is asked of images.

    settings: what decides the masks of all images, for JSON. categories: names of classes by id.
    """

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def categories(self) -> Mapping[int, str]: ...

    def of_image(self, image_id: str) -> Mapping[str, Any]:
        """What decides the masks of this image alone, for JSON."""
        ...

    def answers(self, model: Sam, image: NDArray[np.uint8], image_id: str) -> Records:
        """Records as `SamAutomaticMaskGenerator` has them, with compressed codes; none is empty.

        model: in eval mode. image: (H, W, 3) in 0..255. A record may hold `category_id`, `score`
        and `prompt_box`, too. Raises RecordError for what cannot be asked of this image.
        """
        ...


@dataclass(frozen=True)
class Everything:
    """The masks that a grid of points finds."""

    options: AutomaticOptions

    @property
    def settings(self) -> Mapping[str, Any]:
        """All options but how many points are decoded at a time."""
        options = asdict(self.options).items()
        return {"prompts": "grid", **{k: v for k, v in options if k not in _ONLY_SPEED}}

    @property
    def categories(self) -> Mapping[int, str]:
        return {1: "segment"}

    def of_image(self, image_id: str) -> Mapping[str, Any]:
        return {}

    def answers(self, model: Sam, image: NDArray[np.uint8], image_id: str) -> Records:
        size = image.shape[0], image.shape[1]
        found = [mask for mask in automatic_masks(model, image, self.options) if mask.area]
        return [{"segmentation": compressed(mask.code, size), **facts(mask)} for mask in found]


@dataclass(frozen=True)
class InBoxes:
    """A mask of each box that a file gives, with its class and score."""

    boxes: BoxFile

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"prompts": "boxes"}

    @property
    def categories(self) -> Mapping[int, str]:
        return self.boxes.categories

    def of_image(self, image_id: str) -> Mapping[str, Any]:
        given = self._of(image_id).boxes
        return {"boxes": [[*box.corners, box.category_id, box.score] for box in given]}

    def answers(self, model: Sam, image: NDArray[np.uint8], image_id: str) -> Records:
        size = image.shape[0], image.shape[1]
        try:
            boxes = self._of(image_id).in_pixels(size)
        except ValueError as error:
            raise RecordError(f"boxes of {image_id}: {error}") from error
        found = masks_of_boxes(model, image, [box.corners for box in boxes])
        pairs = zip(found, boxes, strict=True)
        return [{**record, **_known(box)} for record, box in pairs if record["area"]]

    def _of(self, image_id: str) -> ImageBoxes:
        return self.boxes.of_image.get(image_id, ImageBoxes())


def _known(box: GivenBox) -> dict[str, Any]:
    """What the file says of a box beside its place."""
    return {"category_id": box.category_id, **({} if box.score is None else {"score": box.score})}


def masks_of_boxes(
    model: Sam, image: NDArray[np.uint8], boxes: Sequence[Corners]
) -> Iterator[dict[str, Any]]:
    """A record of the mask of each box, xyxy in pixels of the image (H, W, 3) in 0..255.

    model: in eval mode. Records as `SamAutomaticMaskGenerator` has them, with the compressed code,
    without points and with the box as `prompt_box`.
    """
    if not boxes:
        return
    size = image.shape[0], image.shape[1]
    whole = Crop(0, 0, size[1], size[0], 0)
    predictor = SamPredictor(model)
    predictor.set_image(image)
    places = predictor.transform.apply_boxes(np.array(boxes, dtype=np.float64), size)
    count = points_at_once(model, None)
    for start in range(0, len(boxes), count):
        asked = torch.as_tensor(places[start : start + count], dtype=torch.float32)
        low_res_logits, predicted_iou = predictor.decode(
            None, None, asked.to(predictor.device), multimask_output=False
        )
        for i, stability, mask in stable_masks(predictor, low_res_logits[:, 0], _ALL):
            code = encode(mask)
            box, area = box_and_area(code, size, whole)
            yield {
                "segmentation": compressed(code, size),
                "area": area,
                "bbox": xywh(box),
                "predicted_iou": float(predicted_iou[i, 0]),
                "point_coords": [],
                "stability_score": stability,
                "crop_box": xywh(whole[:4]),
                "prompt_box": list(boxes[start + i]),
            }
