"""Sources of the masks that `segment` writes: automatic masks, or the boxes of a file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mobile_sam.data.formats.boxes import BoxFile, Corners, ImageBoxes, InputBox
from mobile_sam.data.images import RecordError
from mobile_sam.data.masks import encode
from mobile_sam.inference.automatic_masks import automatic_masks, compressed_rle, mask_record, xywh
from mobile_sam.inference.grid import Crop
from mobile_sam.inference.predictor import SamPredictor
from mobile_sam.inference.proposals import (
    AutomaticOptions,
    box_and_area,
    points_per_pass,
    stable_masks,
)
from mobile_sam.models.sam import Sam

MaskRecords = list[dict[str, Any]]
_KEEP_ALL = AutomaticOptions(stability_score_thresh=0)
_ONLY_SPEED = {"points_per_batch"}


class MaskSource(Protocol):
    """Source of the masks of images.

    settings: everything that decides the masks of all images, for JSON.
    categories: names of classes by id.
    """

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def categories(self) -> Mapping[int, str]: ...

    def image_settings(self, image_id: str) -> Mapping[str, Any]:
        """Return everything that decides the masks of this image alone, for JSON."""
        ...

    def records(self, model: Sam, image: NDArray[np.uint8], image_id: str) -> MaskRecords:
        """Return records as `SamAutomaticMaskGenerator` does, with compressed codes; none is empty.

        model: in eval mode. image: (H, W, 3) in 0..255. A record may also hold `category_id`,
        `score` and `prompt_box`. Raises RecordError for prompts that do not fit the image.
        """
        ...


@dataclass(frozen=True)
class AutomaticSource:
    """Automatic masks of a grid of points."""

    options: AutomaticOptions

    @property
    def settings(self) -> Mapping[str, Any]:
        """All options except the number of points per pass."""
        options = asdict(self.options).items()
        return {"prompts": "grid", **{k: v for k, v in options if k not in _ONLY_SPEED}}

    @property
    def categories(self) -> Mapping[int, str]:
        return {1: "segment"}

    def image_settings(self, image_id: str) -> Mapping[str, Any]:
        return {}

    def records(self, model: Sam, image: NDArray[np.uint8], image_id: str) -> MaskRecords:
        size = image.shape[0], image.shape[1]
        masks = [mask for mask in automatic_masks(model, image, self.options) if mask.area]
        return [mask_record(mask, compressed_rle(mask.code, size)) for mask in masks]


@dataclass(frozen=True)
class BoxSource:
    """One mask for each box of a file, with the box's class and score."""

    boxes: BoxFile

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"prompts": "boxes"}

    @property
    def categories(self) -> Mapping[int, str]:
        return self.boxes.categories

    def image_settings(self, image_id: str) -> Mapping[str, Any]:
        boxes = self._boxes_of(image_id).boxes
        return {"boxes": [[*box.corners, box.category_id, box.score] for box in boxes]}

    def records(self, model: Sam, image: NDArray[np.uint8], image_id: str) -> MaskRecords:
        size = image.shape[0], image.shape[1]
        try:
            boxes = self._boxes_of(image_id).in_pixels(size)
        except ValueError as error:
            raise RecordError(f"boxes of {image_id}: {error}") from error
        records = box_records(model, image, [box.corners for box in boxes])
        pairs = zip(records, boxes, strict=True)
        return [{**record, **_class_and_score(box)} for record, box in pairs if record["area"]]

    def _boxes_of(self, image_id: str) -> ImageBoxes:
        return self.boxes.of_image.get(image_id, ImageBoxes())


def _class_and_score(box: InputBox) -> dict[str, Any]:
    return {"category_id": box.category_id, **({} if box.score is None else {"score": box.score})}


def box_records(
    model: Sam, image: NDArray[np.uint8], boxes: Sequence[Corners]
) -> Iterator[dict[str, Any]]:
    """Yield a record of the mask of each box, xyxy in pixels of the image (H, W, 3) in 0..255.

    model: in eval mode. Records have the keys of `SamAutomaticMaskGenerator`, with compressed
    codes, no points, and the box as `prompt_box`.
    """
    if not boxes:
        return
    size = image.shape[0], image.shape[1]
    whole_image = Crop(0, 0, size[1], size[0], 0)
    predictor = SamPredictor(model)
    predictor.set_image(image)
    corners = predictor.transform.apply_boxes(np.array(boxes, dtype=np.float64), size)
    count = points_per_pass(model, None)
    for start in range(0, len(boxes), count):
        batch = torch.as_tensor(corners[start : start + count], dtype=torch.float32)
        low_res_logits, predicted_iou = predictor.decode(
            None, None, batch.to(predictor.device), multimask_output=False
        )
        for i, stability, mask in stable_masks(predictor, low_res_logits[:, 0], _KEEP_ALL):
            code = encode(mask)
            box, area = box_and_area(code, size, whole_image)
            yield {
                "segmentation": compressed_rle(code, size),
                "area": area,
                "bbox": xywh(box),
                "predicted_iou": float(predicted_iou[i, 0]),
                "point_coords": [],
                "stability_score": stability,
                "crop_box": xywh(whole_image[:4]),
                "prompt_box": list(boxes[start + i]),
            }
