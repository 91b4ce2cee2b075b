"""Average precision of detected masks, as COCO and as LVIS define it."""

import io
from collections import defaultdict
from collections.abc import Iterable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mobile_sam.metrics import federated
from mobile_sam.metrics.detections import Json, read_annotations, read_detections

Floats = NDArray[np.float64]

_MOST = 100  # detections of one category that count in an image of COCO
_ALL, _SIZES = 0, {"s": 1, "m": 2, "l": 3}  # COCO's ranges of areas; limits are 32² and 96² pixels
_AT_50, _AT_75 = 0, 5  # places in COCO's IoU thresholds


def average_precision(
    truth: Json, results: list[Json], image_ids: Iterable[int] | None = None
) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl and AR of detected masks; of LVIS also APr, APc and APf.

    truth: annotations in COCO's format. They are LVIS' when images have `neg_category_ids`.
    results: `image_id`, `category_id`, `score`, and `segmentation`, the compressed run-length code
        with its `size`, of each detection. Its area is that of the mask, not that of a `bbox`.
    image_ids: the images that count, all of them by default; detections on others do not.

    COCO: 100 detections of each category in an image count; AR is AR@100. LVIS (Gupta et al. 2019,
    arXiv:1908.03195): 300 of all categories in an image, AR is AR@300; a category counts in images
    that have it or are known not to; where not all its objects are annotated, what matches none is
    ignored; annotations and detections without a pixel are left out, which in COCO count as any.

    A measure for which there is no object is NaN. Neither argument is changed. Raises ValueError
    for images and categories that `truth` lacks, and masks of another size than their image.
    """
    images = _images(truth, image_ids)
    federation = federated.federation(truth)
    true, found = read_annotations(truth, images), read_detections(truth, results, images)
    if federation:
        true, found = map(federated.with_pixels, (true, federated.best_of_each_image(found)))
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    with redirect_stdout(io.StringIO()):  # pycocotools tells of each step
        precision, recall = _curves(categories, images, true, found, federation)
    measures = _measures(precision, recall)
    if federation:
        frequencies = np.array([category["frequency"] for category in categories])
        for letter in federated.FREQUENCIES:
            measures[f"AP{letter}"] = _mean(precision[:, :, frequencies == letter, _ALL])
    return measures


class _Evaluation(COCOeval):
    """COCO's evaluation, that ignores what matches nothing in images not annotated to the end."""

    def __init__(self, truth: COCO, found: COCO, most: int, partly: set[int]) -> None:
        super().__init__(truth, found, "segm")
        self.params.maxDets = [most]
        self._partly = partly

    def evaluateImg(self, imgId: int, catId: int, aRng: Any, maxDet: int) -> Any:  # noqa: N802, N803
        found = super().evaluateImg(imgId, catId, aRng, maxDet)
        if found is not None and imgId in self._partly:
            found["dtIgnore"] |= found["dtMatches"] == 0
        return found


def _curves(
    categories: list[Json],
    images: dict[int, Json],
    true: list[Json],
    found: list[Json],
    federation: federated.Federation | None,
) -> tuple[Floats, Floats]:
    """Precision (T, R, K, A) by IoU, recall, category and area, and recall (T, K, A).

    -1 where there is no object. Categories are evaluated one by one, each on the images where it
    is known; which gives the same, and takes less memory.
    """
    annotations, detections = _by_category(true), _by_category(found)
    curves = []
    for category in categories:
        name = category["id"]
        known, partly = set(images), set[int]()
        if federation:
            known &= federation.absent.get(name, set()) | {r["image_id"] for r in annotations[name]}
            partly = federation.partly.get(name, set())
        listed = [images[i] for i in sorted(known)]
        evaluation = _Evaluation(
            _api(category, listed, annotations[name]),
            _api(category, listed, [r for r in detections[name] if r["image_id"] in known]),
            federated.MOST if federation else _MOST,
            partly,
        )
        evaluation.evaluate()
        evaluation.accumulate()
        curves.append((evaluation.eval["precision"], evaluation.eval["recall"]))
    precisions, recalls = zip(*curves, strict=True)
    return np.concatenate(precisions, axis=2)[..., 0], np.concatenate(recalls, axis=1)[..., 0]


def _api(category: Json, images: list[Json], rows: list[Json]) -> COCO:
    api = COCO()
    api.dataset = {"images": images, "annotations": rows, "categories": [category]}
    api.createIndex()
    return api


def _measures(precision: Floats, recall: Floats) -> dict[str, float]:
    return {
        "AP": _mean(precision[..., _ALL]),
        "AP50": _mean(precision[_AT_50, ..., _ALL]),
        "AP75": _mean(precision[_AT_75, ..., _ALL]),
        **{f"AP{letter}": _mean(precision[..., place]) for letter, place in _SIZES.items()},
        "AR": _mean(recall[..., _ALL]),
    }


def _mean(values: Floats) -> float:
    there = values[values > -1]
    return float(there.mean()) if there.size else float("nan")


def _images(truth: Json, image_ids: Iterable[int] | None) -> dict[int, Json]:
    images = {image["id"]: image for image in truth["images"]}
    chosen = images.keys() if image_ids is None else set(image_ids)
    if lacking := sorted(chosen - images.keys()):
        raise ValueError(
            f"image {lacking[0]}, and {len(lacking) - 1} more, are none of the annotations; name "
            "images of the same file"
        )
    return {i: image for i, image in images.items() if i in chosen}


def _by_category(rows: list[Json]) -> defaultdict[int, list[Json]]:
    groups: defaultdict[int, list[Json]] = defaultdict(list)
    for row in rows:
        groups[row["category_id"]].append(row)
    return groups
