"""Average precision of detected masks as defined by COCO and LVIS.

LVIS has federated annotations: only some categories are annotated in each image (Gupta et al. 2019,
arXiv:1908.03195). The conventions are those of its authors' package `lvis`.
"""

import io
from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Json = dict[str, Any]


def read_annotations(truth: Json, image_ids: Collection[int]) -> list[Json]:
    """Copy the annotations of some images. Raises ValueError for one without `area`."""
    rows = [row for row in truth["annotations"] if row["image_id"] in image_ids]
    for row in rows:
        if "area" not in row:
            raise ValueError(f"annotation {row['id']} has no 'area'; add it, in pixels")
    return [{"iscrowd": 0, **row} for row in rows]


def read_detections(truth: Json, results: list[Json], image_ids: Collection[int]) -> list[Json]:
    """Return the detections in some images, numbered from 1, with the mask area in pixels.

    They have no `bbox`, because COCOeval would use its area in place of the mask's.
    Raises ValueError for an image or category that `truth` lacks, and for a mask whose size differs
    from that of its image.
    """
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for row in results:
        image_id, category_id = row["image_id"], row["category_id"]
        if image_id not in sizes or category_id not in categories:
            raise ValueError(
                f"a result has image {image_id} and category {category_id}, but the annotations "
                "lack one of them; give results for images of the same file"
            )
        # pycocotools would return an IoU of -1.
        if list(row["segmentation"]["size"]) != sizes[image_id]:
            raise ValueError(
                f"a result for image {image_id} has size {row['segmentation']['size']}, but the "
                f"image has {sizes[image_id]}, (H, W); give masks in the image frame"
            )
    rows = [row for row in results if row["image_id"] in image_ids]
    keys = ("image_id", "category_id", "segmentation", "score")
    return [
        {
            **{key: row[key] for key in keys},
            "id": number,
            # One at a time: pycocotools 2.0.11 fails for lists of more than 255.
            "area": int(coco.area(row["segmentation"])),
            "iscrowd": 0,
        }
        for number, row in enumerate(rows, start=1)
    ]


Floats = NDArray[np.float64]

FREQUENCIES = ("r", "c", "f")  # a category is rare, common or frequent in the training images
MAX_DETECTIONS_LVIS = 300  # per image, over all categories
_ABSENT, _PARTLY = "neg_category_ids", "not_exhaustive_category_ids"
_MAX_DETECTIONS = 100  # per image and category, in COCO
_ALL, _SIZES = 0, {"s": 1, "m": 2, "l": 3}  # COCO's area ranges; limits are 32² and 96² pixels
_AT_50, _AT_75 = 0, 5  # indices into COCO's IoU thresholds


def average_precision(
    truth: Json, results: list[Json], image_ids: Iterable[int] | None = None
) -> dict[str, float]:
    """Compute AP, AP50, AP75, APs, APm, APl and AR of masks; for LVIS also APr, APc and APf.

    truth: annotations in COCO's format; they are LVIS annotations if images have
        `neg_category_ids`.
    results: `image_id`, `category_id`, `score`, and `segmentation`, the compressed run-length code
        with its `size`, of each detection. Areas are those of masks, not those of a `bbox`.
    image_ids: images to evaluate, by default all; detections in other images are ignored.

    COCO: up to 100 detections per category and image; AR is AR@100. LVIS (Gupta et al. 2019,
    arXiv:1908.03195): up to 300 detections per image over all categories, AR is AR@300; a category
    is evaluated in images that contain it or are known not to; where its objects are not annotated
    exhaustively, unmatched detections are ignored; annotations and detections without a pixel are
    left out, which COCO includes.

    A metric without any object is NaN. The arguments are not changed. Raises ValueError for images
    and categories that `truth` lacks, and for masks whose size differs from that of their image.
    """
    images = _images(truth, image_ids)
    federation = read_federation(truth)
    true, detections = read_annotations(truth, images), read_detections(truth, results, images)
    if federation:
        true, detections = map(_drop_empty, (true, _best_per_image(detections)))
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    with redirect_stdout(io.StringIO()):  # pycocotools prints each step
        precision, recall = _curves(categories, images, true, detections, federation)
    measures = _measures(precision, recall)
    if federation:
        frequencies = np.array([category["frequency"] for category in categories])
        for letter in FREQUENCIES:
            measures[f"AP{letter}"] = _mean(precision[:, :, frequencies == letter, _ALL])
    return measures


@dataclass(frozen=True)
class Federation:
    """Knowledge about images besides their annotations: sets of image ids, by category.

    absent: images known to contain no object of the category. partly: images in which some of its
    objects may not be annotated.
    """

    absent: dict[int, set[int]]
    partly: dict[int, set[int]]


def read_federation(truth: dict[str, Any]) -> Federation | None:
    """Return the federation of an LVIS file, or None for a COCO file.

    A file is LVIS if an image has `neg_category_ids` or `not_exhaustive_category_ids`. Raises
    ValueError if another image lacks them, or a category lacks its `frequency`.
    """
    keys = (_ABSENT, _PARTLY)
    if not any(key in image for image in truth["images"] for key in keys):
        return None
    for image in truth["images"]:
        if lacking := [key for key in keys if key not in image]:
            raise ValueError(
                f"image {image['id']} has no {lacking[0]!r}, which LVIS images have; give the "
                "annotations as they were published"
            )
    for category in truth["categories"]:
        if category.get("frequency") not in FREQUENCIES:
            raise ValueError(
                f"category {category['id']} has frequency {category.get('frequency')!r}; LVIS "
                f"has {', '.join(FREQUENCIES)}"
            )
    return Federation(*(_images_by_category(truth["images"], key) for key in keys))


def _drop_empty(rows: list[Json]) -> list[Json]:
    """Drop annotations or detections without a pixel, which LVIS leaves out."""
    return [row for row in rows if row["area"] > 0]


def _best_per_image(detections: list[Json]) -> list[Json]:
    """Return the 300 detections with the highest scores in each image; ties keep their order."""
    by_image = defaultdict(list)
    for row in sorted(detections, key=lambda row: -row["score"]):
        by_image[row["image_id"]].append(row)
    return [row for rows in by_image.values() for row in rows[:MAX_DETECTIONS_LVIS]]


def _images_by_category(images: list[Json], key: str) -> dict[int, set[int]]:
    image_ids = defaultdict(set)
    for image in images:
        for category in image[key]:
            image_ids[category].add(image["id"])
    return dict(image_ids)


class _Evaluation(COCOeval):
    """COCO evaluation that ignores unmatched detections in images not annotated exhaustively."""

    def __init__(
        self, truth: COCO, detections: COCO, max_detections: int, partly: set[int]
    ) -> None:
        super().__init__(truth, detections, "segm")
        self.params.maxDets = [max_detections]
        self._partly = partly

    def evaluateImg(self, imgId: int, catId: int, aRng: Any, maxDet: int) -> Any:  # noqa: N802, N803
        result = super().evaluateImg(imgId, catId, aRng, maxDet)
        if result is not None and imgId in self._partly:
            result["dtIgnore"] |= result["dtMatches"] == 0
        return result


def _curves(
    categories: list[Json],
    images: dict[int, Json],
    true: list[Json],
    detections: list[Json],
    federation: Federation | None,
) -> tuple[Floats, Floats]:
    """Return precision (T, R, K, A) by IoU, recall, category and area, and recall (T, K, A).

    -1 where there is no object. Each category is evaluated separately, on the images where it is
    known; the result is the same and takes less memory.
    """
    true_rows, detected_rows = _by_category(true), _by_category(detections)
    curves = []
    for category in categories:
        name = category["id"]
        known, partly = set(images), set[int]()
        if federation:
            known &= federation.absent.get(name, set()) | {r["image_id"] for r in true_rows[name]}
            partly = federation.partly.get(name, set())
        listed = [images[i] for i in sorted(known)]
        evaluation = _Evaluation(
            _api(category, listed, true_rows[name]),
            _api(category, listed, [r for r in detected_rows[name] if r["image_id"] in known]),
            MAX_DETECTIONS_LVIS if federation else _MAX_DETECTIONS,
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
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _images(truth: Json, image_ids: Iterable[int] | None) -> dict[int, Json]:
    images = {image["id"]: image for image in truth["images"]}
    selected = images.keys() if image_ids is None else set(image_ids)
    if lacking := sorted(selected - images.keys()):
        raise ValueError(
            f"image {lacking[0]}, and {len(lacking) - 1} more, are not in the annotations; name "
            "images of the same file"
        )
    return {i: image for i, image in images.items() if i in selected}


def _by_category(rows: list[Json]) -> defaultdict[int, list[Json]]:
    groups: defaultdict[int, list[Json]] = defaultdict(list)
    for row in rows:
        groups[row["category_id"]].append(row)
    return groups
