"""Predictor for a bundle of ONNX files that needs only onnxruntime and numpy.

    predictor = OnnxPredictor("bundle")
    predictor.set_image(pixels)  # RGB, uint8, (H, W, 3)
    masks, predicted_iou, low_res_logits = predictor.predict(box=[x0, y0, x1, y1])
    records = predictor.automatic_masks(points_per_side=16)

This file is part of each bundle that mobile_sam writes, and works on its own. Its results equal
those of mobile_sam's SamPredictor. Points are xy and boxes xyxy, in pixels of the image.
"""

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Since 1.32 onnxruntime reports the models it runs to its vendor, unless this is set before import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

FORMAT = 1  # of bundle.json
_KEYS = ("forms", "sha256", "img_size", "pixel_mean", "pixel_std", "mask_threshold")
_PADDING, _TOP_LEFT, _BOTTOM_RIGHT = -1, 2, 3  # further labels; 0 is background, 1 foreground
_CPU_BATCH = 4  # prompts decoded at a time for automatic masks; more exceed a CPU's cache
_WEIGHT_BITS = 22  # fraction bits of Pillow's resampling weights


Session = Callable[[dict[str, NDArray[np.float32]]], list[NDArray[np.float32]]]
Prediction = tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]


class BundleError(ValueError):
    """Error for an unusable bundle; the message names the file and the remedy."""


class OnnxPredictor:
    """Predictor that encodes an image once and decodes prompts on it.

    bundle: the directory of a bundle. form: precision in the bundle: `float32`, `float16`, `int8`.
    threads: 0 for one per core. runtime: of the encoder, which takes nearly all of the time:
    `onnxruntime`, or `openvino`, which must be installed.
    providers: onnxruntime's execution providers, such as `CUDAExecutionProvider`.
    mask_threshold: logits above it belong to a mask; None: the bundle's threshold.
    Raises BundleError for a bundle that is damaged or lacks the form.
    """

    def __init__(
        self,
        bundle: str | Path,
        form: str = "float32",
        threads: int = 0,
        runtime: str = "onnxruntime",
        providers: Sequence[str] = ("CPUExecutionProvider",),
        mask_threshold: float | None = None,
    ) -> None:
        directory = Path(bundle)
        self.about = read_bundle(directory)
        forms = self.about["forms"]
        if form not in forms:
            raise BundleError(
                f"{directory}: there is no form {form!r}; there are {', '.join(forms)}"
            )
        if runtime not in {"onnxruntime", "openvino"}:
            raise ValueError(f"runtime: {runtime!r}; it must be 'onnxruntime' or 'openvino'")
        encoder, decoder = (
            checked_file(directory, forms[form][part], self.about["sha256"])
            for part in ("encoder", "decoder")
        )
        self._encode = (
            _openvino_session(encoder, threads, form)
            if runtime == "openvino"
            else _onnxruntime_session(encoder, threads, providers)
        )
        self._decode = _onnxruntime_session(decoder, threads, providers)
        self.img_size: int = self.about["img_size"]
        default: float = self.about["mask_threshold"]
        self.mask_threshold = default if mask_threshold is None else mask_threshold
        self.reset_image()

    def reset_image(self) -> None:
        """Forget the image."""
        self._embedding: NDArray[np.float32] | None = None
        self.original_size = (0, 0)

    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Encode an image, uint8, (H, W, 3). image_format: `RGB` or `BGR`."""
        pixels = np.asarray(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise ValueError(
                f"image: {pixels.dtype} of shape {pixels.shape}; it must be uint8, (H, W, 3)"
            )
        if image_format not in {"RGB", "BGR"}:
            raise ValueError(f"image_format: {image_format!r}; it must be 'RGB' or 'BGR'")
        self.reset_image()
        rgb = pixels if image_format == "RGB" else pixels[..., ::-1]
        mean, std = self.about["pixel_mean"], self.about["pixel_std"]
        frame = image_to_model_frame(rgb, self.img_size, mean, std)
        self.set_image_embedding(self.encode(frame[None]), pixels.shape[:2])

    def encode(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the image_embedding of a model frame (1, 3, S, S), see `image_to_model_frame`."""
        return self._encode({"images": frame})[0]

    def set_image_embedding(self, image_embedding: ArrayLike, image_size: Sequence[int]) -> None:
        """Set the embedding (1, C, S/16, S/16) of an image of (H, W) pixels.

        The embedding must come from the same weights, for example from `get_image_embedding`.
        """
        embedding, side = np.asarray(image_embedding, dtype=np.float32), self.img_size // 16
        if embedding.ndim != 4 or embedding.shape[0] != 1 or embedding.shape[2:] != (side, side):
            raise ValueError(
                f"image_embedding: of shape {embedding.shape}; it must be (1, C, {side}, {side}), "
                "the embedding of one image by this model"
            )
        height, width = image_size
        self._embedding, self.original_size = embedding, (int(height), int(width))

    def get_image_embedding(self) -> NDArray[np.float32]:
        """Return the image_embedding (1, C, S/16, S/16), which `np.save` can store."""
        if self._embedding is None:
            raise RuntimeError("no image is set; call set_image first")
        return self._embedding

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Prediction:
        """Predict the masks of one prompt, in the image frame.

        point_coords: (N, 2) xy pixels; point_labels: (N,), 1 foreground, 0 background.
        box: (4,) xyxy pixels. mask_input: low_res_logits of an earlier prediction, (1, S/4, S/4).
        multimask_output: three masks for an ambiguous prompt instead of one.
        Returns masks (M, H, W), bool or with `return_logits` float32; predicted_iou (M,); and
        low_res_logits (M, S/4, S/4).
        """
        prompt = {
            "point_coords": point_coords,
            "point_labels": point_labels,
            "boxes": box,
            "mask_input": mask_input,
        }
        batch = {k: None if v is None else np.asarray(v)[None] for k, v in prompt.items()}
        if box is not None:
            batch["boxes"] = np.reshape(box, (1, -1))
        masks, iou, low_res = self.predict_batch(
            **batch, multimask_output=multimask_output, return_logits=return_logits
        )
        return masks[0], iou[0], low_res[0]

    def predict_batch(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Prediction:
        """Predict the masks of B prompts, in the image frame, with one call of the decoder.

        point_coords: (B, N, 2) xy pixels; point_labels: (B, N). boxes: (B, 4) xyxy pixels.
        mask_input: (B, 1, S/4, S/4). Arguments that are given together belong to the same prompts.
        Returns arrays as `predict` does, with B first in each shape. Results equal those of single
        prompts; memory grows with their number.
        """
        low_res_logits, predicted_iou = self._decode_prompts(
            point_coords, point_labels, boxes, mask_input
        )
        selected = slice(1, None) if multimask_output else slice(0, 1)
        low_res, iou = low_res_logits[:, selected], predicted_iou[:, selected]
        flat = low_res.reshape(-1, *low_res.shape[2:])
        masks = upscale_logits(flat, self.img_size, self.original_size)
        masks = masks.reshape(*low_res.shape[:2], *self.original_size)
        return (masks if return_logits else masks > self.mask_threshold), iou, low_res

    def automatic_masks(
        self,
        points_per_side: int = 32,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        points_per_batch: int = _CPU_BATCH,
    ) -> list[dict[str, Any]]:
        """Segment everything in the image; return a record per mask, by falling predicted_iou.

        Options and records are those of SAM's `SamAutomaticMaskGenerator` (arXiv:2304.02643,
        appendix B), without crops: the points of a grid are decoded; masks are kept if their
        predicted_iou is high, they hardly change with the threshold, and no better mask has the
        same box.
        points_per_batch: prompts decoded at a time; GPUs benefit from more, CPUs do not.
        Keys: segmentation, bool (H, W); area in pixels; bbox and crop_box, xywh; predicted_iou;
        stability_score; point_coords, a list of the one point (x, y) that prompted the mask.
        """
        if points_per_side < 1 or points_per_batch < 1:
            raise ValueError("points_per_side, points_per_batch: each must be 1 or more")
        points = point_grid(points_per_side) * self.original_size[::-1]
        records = []
        for start in range(0, len(points), points_per_batch):
            batch = points[start : start + points_per_batch]
            labels = np.ones((len(batch), 1))
            low_res, iou = self._decode_prompts(batch[:, None], labels, None, None)
            confident = (iou > pred_iou_thresh) | (pred_iou_thresh <= 0)
            confident[:, 0] = False  # the mask for clear prompts
            for row, mask in zip(*np.nonzero(confident), strict=True):
                logits, score = low_res[row, mask][None], float(iou[row, mask])
                record = self._record(logits, score, batch[row].tolist(), stability_score_offset)
                stable = record["stability_score"] >= stability_score_thresh
                if stable or stability_score_thresh <= 0:
                    records.append(record)
        boxes = np.array([record.pop("box") for record in records], np.float32).reshape(-1, 4)
        scores = np.array([record["predicted_iou"] for record in records], np.float32)
        kept = [records[n] for n in box_nms(boxes, scores, box_nms_thresh)]
        shape = self.original_size
        for record in kept:  # packed bits until here: dropped masks take an eighth of the memory
            bits = np.unpackbits(record["segmentation"], count=shape[0] * shape[1])
            record["segmentation"] = bits.reshape(shape).astype(bool)
        return kept

    def _record(
        self, low_res: NDArray[np.float32], score: float, point: list[float], offset: float
    ) -> dict[str, Any]:
        """Return the record of a mask (1, S/4, S/4), with packed bits and its xyxy `box`."""
        logits = upscale_logits(low_res, self.img_size, self.original_size)[0]
        mask = logits > self.mask_threshold
        inner = int((logits > self.mask_threshold + offset).sum())
        outer = int((logits > self.mask_threshold - offset).sum())
        ends = [np.flatnonzero(mask.any(axis)) for axis in (0, 1)]  # columns, rows
        x0, y0, x1, y1 = (int(end[n]) if len(end) else 0 for n in (0, -1) for end in ends)
        return {
            "segmentation": np.packbits(mask),
            "area": int(mask.sum()),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "predicted_iou": score,
            "point_coords": [point],
            "stability_score": inner / outer if outer else float("nan"),
            "crop_box": [0, 0, self.original_size[1], self.original_size[0]],
            "box": [x0, y0, x1, y1],
        }

    def _decode_prompts(
        self,
        point_coords: ArrayLike | None,
        point_labels: ArrayLike | None,
        boxes: ArrayLike | None,
        mask_input: ArrayLike | None,
    ) -> list[NDArray[np.float32]]:
        """Return all low_res_logits (B, 4, S/4, S/4) and predicted_iou (B, 4) of B prompts."""
        embedding = self.get_image_embedding()
        prompts = {"point_coords": point_coords, "boxes": boxes, "mask_input": mask_input}
        counts = {k: len(np.asarray(value)) for k, value in prompts.items() if value is not None}
        if len(set(counts.values())) > 1:
            sizes = ", ".join(f"{name} of {count}" for name, count in counts.items())
            raise ValueError(f"{sizes} prompts; give as many of each")
        count = next(iter(counts.values()), 1)
        points, labels = self._tokens(count, point_coords, point_labels, boxes)
        return self._decode(
            {
                "image_embeddings": embedding,
                "point_coords": points,
                "point_labels": labels,
                "mask_input": self._masks(count, mask_input),
                "has_mask_input": np.full(count, mask_input is not None, dtype=np.float32),
            }
        )

    def _tokens(
        self,
        count: int,
        coords: ArrayLike | None,
        labels: ArrayLike | None,
        boxes: ArrayLike | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return points (B, T, 2) in the model frame and labels (B, T) of `count` prompts.

        Points come first, then corners of boxes or padding. T is 0 for prompts of masks alone.
        """
        if (coords is None) != (labels is None):
            raise ValueError("point_coords and point_labels go together; give both or neither")
        places, kinds = [np.zeros((count, 0, 2))], [np.zeros((count, 0))]
        if coords is not None and labels is not None:
            points, kind = np.asarray(coords, dtype=np.float64), np.asarray(labels)
            if points.ndim != 3 or points.shape != (*kind.shape, 2):
                raise ValueError(
                    f"point_coords: of shape {points.shape}, point_labels: of shape {kind.shape}; "
                    "they must be (B, N, 2) and (B, N), of one prompt (N, 2) and (N,)"
                )
            if not np.isin(kind, range(_PADDING, _BOTTOM_RIGHT + 1)).all():
                raise ValueError(f"point_labels: {kind.tolist()}; 1 is foreground, 0 background")
            padding = np.zeros((count, 0 if boxes is not None else 1))
            places += [points, np.zeros((*padding.shape, 2))]
            kinds += [kind, padding + _PADDING]
        if boxes is not None:
            corners = np.asarray(boxes, dtype=np.float64)
            if corners.shape != (count, 4):
                raise ValueError(f"boxes: of shape {corners.shape}; they must be (B, 4)")
            places.append(corners.reshape(-1, 2, 2))
            kinds.append(np.tile([_TOP_LEFT, _BOTTOM_RIGHT], (count, 1)))
        height, width = model_frame_size(self.original_size, self.img_size)
        scale = [width / self.original_size[1], height / self.original_size[0]]
        scaled = np.concatenate(places, axis=1) * scale
        return scaled.astype(np.float32), np.concatenate(kinds, axis=1).astype(np.float32)

    def _masks(self, count: int, mask_input: ArrayLike | None) -> NDArray[np.float32]:
        side = self.img_size // 4
        if mask_input is None:
            return np.zeros((count, 1, side, side), dtype=np.float32)
        masks = np.asarray(mask_input, dtype=np.float32)
        if masks.ndim != 4 or masks.shape[1:] != (1, side, side):
            raise ValueError(
                f"mask_input: of shape {masks.shape}; it must be (B, 1, {side}, {side}), of one "
                f"prompt (1, {side}, {side}): low_res_logits of an earlier prediction"
            )
        return masks


def point_grid(side: int) -> NDArray[np.float64]:
    """Return points (side * side, 2), xy in the unit square: centres of equal cells, row by row."""
    centres = np.linspace(1 / (2 * side), 1 - 1 / (2 * side), side)
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)


def box_nms(boxes: NDArray[np.float32], scores: NDArray[np.float32], box_iou: float) -> list[int]:
    """Return rows by falling score, without those whose box (N, 4) overlaps an earlier one.

    box_iou: largest IoU that is kept.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        low = np.maximum(boxes[left, :2], boxes[best, :2])
        high = np.minimum(boxes[left, 2:], boxes[best, 2:])
        shared = (high - low).clip(min=0).prod(axis=1)
        with np.errstate(invalid="ignore"):  # the IoU of two boxes without an area is NaN
            iou = shared / (areas[left] + areas[best] - shared)
        left = left[~(iou > box_iou)]
    return kept


def read_bundle(directory: Path) -> dict[str, Any]:
    """Read bundle.json. Raises BundleError if it is missing, damaged or of another format."""
    path = directory / "bundle.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: there is no such file; export the model again") from None
    except ValueError as error:
        raise BundleError(f"{path}: damaged ({error}); export the model again") from None
    version = about.get("format") if isinstance(about, dict) else None
    if version != FORMAT:
        raise BundleError(
            f"{path}: of format {version}, but {FORMAT} is expected; export the model again"
        )
    missing = ", ".join(key for key in _KEYS if key not in about)
    if missing:
        raise BundleError(f"{path}: damaged ({missing} missing); export the model again")
    return about


def checked_file(directory: Path, name: str, digests: dict[str, str]) -> Path:
    """Return the path of a file of the bundle. Raises BundleError if its bytes have changed.

    digests: sha256 of all files by name. The weights of a large model are in a second file.
    """

    for part in (name, f"{name}.data"):
        path = directory / part
        if part not in digests and part != name:
            continue
        if not path.is_file():
            raise BundleError(f"{path}: there is no such file; export the model again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digests.get(part):
            raise BundleError(f"{path}: not the file that was exported; export the model again")
    return directory / name


def _onnxruntime_session(path: Path, threads: int, providers: Sequence[str]) -> Session:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only; float16 files cause warnings about folding
    session = onnxruntime.InferenceSession(path, options, providers=list(providers))
    return lambda inputs: session.run(None, inputs)


def _openvino_session(path: Path, threads: int, form: str) -> Session:
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape({node: [1, *node.partial_shape[1:]] for node in model.inputs})
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    if form != "float16":  # by default OpenVINO computes in 16 bits if the CPU supports it
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    with same_signal_stack():
        compiled = openvino.compile_model(model, "CPU", settings)
    return lambda inputs: list(compiled(inputs).values())


@contextmanager
def same_signal_stack() -> Iterator[None]:
    """Restore the thread's alternate signal stack when the context ends.

    OpenVINO 2026.4 installs its own stack for each model that it compiles, and restores the earlier
    one when the model is deleted. If two models are deleted in the order of their creation, the
    second restores the unmapped stack of the first, and the next signal kills the process.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), (ctypes.c_byte * 24)()  # a stack_t
    libc.sigaltstack(None, before)
    try:
        yield
    finally:
        libc.sigaltstack(before, None)


def model_frame_size(image_size: tuple[int, int], img_size: int) -> tuple[int, int]:
    """Return the (H, W) that an image of `image_size` takes up in a model frame of `img_size`."""
    scale = img_size / max(image_size)
    return int(image_size[0] * scale + 0.5), int(image_size[1] * scale + 0.5)


def image_to_model_frame(
    image: NDArray[np.uint8], img_size: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Convert RGB pixels (H, W, 3) to (3, S, S): resize, normalise, then pad below and right."""
    height, width = model_frame_size((image.shape[0], image.shape[1]), img_size)
    pixels = resize(image, (height, width)).astype(np.float32)
    frame = np.zeros((3, img_size, img_size), dtype=np.float32)
    normalised = (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
    frame[:, :height, :width] = normalised.transpose(2, 0, 1)
    return frame


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) to a size (H, W), byte for byte as Pillow's bilinear filter does.

    The filter widens with the step between pixels, so that no pixel is skipped. Columns are resized
    before rows, and rounded to bytes in between.
    """
    columns_first = _resize_rows(image.swapaxes(0, 1), size[1])
    return _resize_rows(np.ascontiguousarray(columns_first.swapaxes(0, 1)), size[0])


def _resize_rows(image: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Resize an image (R, ...) to `count` rows, each a weighted sum of neighbouring rows."""
    if len(image) == count:
        return image
    step = len(image) / count
    reach = max(step, 1.0)
    centres = (np.arange(count) + 0.5) * step
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + reach + 0.5).astype(np.int64), len(image))
    taps = first[:, None] + np.arange((last - first).max())  # (count, taps)
    weights = np.maximum(1 - np.abs((taps - centres[:, None] + 0.5) * (1 / reach)), 0.0)
    weights[taps >= last[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    fixed = (weights * 2**_WEIGHT_BITS + 0.5).astype(np.int32)
    rows = np.full((count, *image.shape[1:]), 2 ** (_WEIGHT_BITS - 1), dtype=np.int32)
    for tap, weight in zip(taps.T, fixed.T, strict=True):  # a matrix would be nearly all zeros
        row_weights = weight.reshape(-1, *[1] * (image.ndim - 1))
        rows += image[np.minimum(tap, len(image) - 1)] * row_weights
    return (rows >> _WEIGHT_BITS).clip(0, 255).astype(np.uint8)


def upscale_logits(
    low_res_logits: NDArray[np.float32], img_size: int, image_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Upscale low_res_logits (M, S/4, S/4) to mask logits (M, H, W) in the image frame."""
    height, width = model_frame_size(image_size, img_size)
    logits = _interpolate(low_res_logits, (img_size, img_size))
    return _interpolate(logits[:, :height, :width], image_size)  # the rest is padding


def _interpolate(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize maps (M, H, W), bilinear between the centres of pixels."""
    for axis in (2, 1):
        step = maps.shape[axis] / size[axis - 1]
        positions = np.maximum((np.arange(size[axis - 1]) + 0.5) * step - 0.5, 0.0)
        before = positions.astype(np.int64)
        after = np.minimum(before + 1, maps.shape[axis] - 1)
        weight = (positions - before).astype(np.float32)
        weight = weight if axis == 2 else weight[:, None]
        low, high = maps.take(before, axis), maps.take(after, axis)
        maps = low + (high - low) * weight
    return maps
