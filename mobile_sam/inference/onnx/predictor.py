"""SAM on one image and many prompts, from a bundle of ONNX files, with onnxruntime and numpy only.

    predictor = OnnxPredictor("bundle")
    predictor.set_image(pixels)  # RGB, uint8, (H, W, 3)
    masks, predicted_iou, low_res_logits = predictor.predict(box=[x0, y0, x1, y1])

This file is part of each bundle and needs no other. It is written by mobile_sam, and answers as its
SamPredictor does. Points are xy and boxes xyxy, in pixels of the image.
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

# Since 1.32 onnxruntime sends what models it runs to its maker, unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

FORMAT = 1  # of bundle.json
_KEYS = ("forms", "sha256", "img_size", "pixel_mean", "pixel_std", "mask_threshold")
_PADDING, _TOP_LEFT, _BOTTOM_RIGHT = -1, 2, 3  # labels beside 0, background, and 1, foreground
_BITS = 22  # of Pillow's weights behind the point


Run = Callable[[dict[str, NDArray[np.float32]]], list[NDArray[np.float32]]]


class BundleError(ValueError):
    """A bundle that cannot be used; the message names the file and says what to do."""


class OnnxPredictor:
    """Encodes an image once and answers prompts on it.

    bundle: the directory of a bundle. form: one of those in it: `float32`, `float16`, `int8`.
    threads: 0: one for each core. runtime: of the encoder, which takes nearly all of the time:
    `onnxruntime`, or `openvino`, which has to be installed.
    providers: where onnxruntime computes, such as `CUDAExecutionProvider`.
    mask_threshold: of masks in logits; None: as the bundle says.
    Raises BundleError for a bundle that is damaged, or lacks the form.
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
        in_openvino = runtime == "openvino"
        self._encode = (
            _in_openvino(encoder, threads, form)
            if in_openvino
            else _in_onnxruntime(encoder, threads, providers)
        )
        self._decode = _in_onnxruntime(decoder, threads, providers)
        self.img_size: int = self.about["img_size"]
        own: float = self.about["mask_threshold"]
        self.mask_threshold = own if mask_threshold is None else mask_threshold
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
        self._embedding = self.encode(frame[None])
        self.original_size = (pixels.shape[0], pixels.shape[1])

    def encode(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        """The image_embedding of a model frame (1, 3, S, S), see `image_to_model_frame`."""
        return self._encode({"images": frame})[0]

    def get_image_embedding(self) -> NDArray[np.float32]:
        """The image_embedding (1, C, S/16, S/16)."""
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
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Masks of one prompt in the image frame.

        point_coords: (N, 2) xy pixels; point_labels: (N,), 1 foreground, 0 background.
        box: (4,) xyxy pixels. mask_input: low_res_logits of an earlier answer, (1, S/4, S/4).
        multimask_output: three masks for an ambiguous prompt instead of one.
        Returns masks (M, H, W), bool or with `return_logits` float32; predicted_iou (M,); and
        low_res_logits (M, S/4, S/4).
        """
        embedding = self.get_image_embedding()
        points, labels = self._tokens(point_coords, point_labels, box)
        inputs = {
            "image_embeddings": embedding,
            "point_coords": points[None],
            "point_labels": labels[None],
            "mask_input": self._mask(mask_input)[None],
            "has_mask_input": np.array([mask_input is not None], dtype=np.float32),
        }
        low_res_logits, predicted_iou = self._decode(inputs)
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        low_res, iou = low_res_logits[0, chosen], predicted_iou[0, chosen]
        masks = upscale_logits(low_res, self.img_size, self.original_size)
        return (masks if return_logits else masks > self.mask_threshold), iou, low_res

    def _tokens(
        self, coords: ArrayLike | None, labels: ArrayLike | None, box: ArrayLike | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Points (T, 2) in the model frame and labels (T,): those given, then corners or padding.

        None of both for a prompt that is a mask alone.
        """
        if (coords is None) != (labels is None):
            raise ValueError("point_coords and point_labels go together; give both or neither")
        places, kinds = np.zeros((0, 2)), np.zeros(0)
        if coords is not None and labels is not None:
            places, kinds = np.asarray(coords, dtype=np.float64), np.asarray(labels)
            if places.ndim != 2 or places.shape[1] != 2 or kinds.shape != places.shape[:1]:
                raise ValueError(
                    f"point_coords: of shape {places.shape}, point_labels: of shape {kinds.shape}; "
                    "they must be (N, 2) and (N,)"
                )
        height, width = model_frame_size(self.original_size, self.img_size)
        scale = [width / self.original_size[1], height / self.original_size[0]]
        if box is not None:
            places = np.concatenate([places, np.asarray(box, dtype=np.float64).reshape(2, 2)])
            kinds = np.append(kinds, [_TOP_LEFT, _BOTTOM_RIGHT])
        places = places * scale
        if box is None and coords is not None:
            places, kinds = np.append(places, [[0.0, 0.0]], axis=0), np.append(kinds, _PADDING)
        return places.astype(np.float32), kinds.astype(np.float32)

    def _mask(self, mask_input: ArrayLike | None) -> NDArray[np.float32]:
        side = self.img_size // 4
        if mask_input is None:
            return np.zeros((1, side, side), dtype=np.float32)
        mask = np.asarray(mask_input, dtype=np.float32)
        if mask.shape != (1, side, side):
            raise ValueError(
                f"mask_input: of shape {mask.shape}; it must be (1, {side}, {side}), one of the "
                "low_res_logits of an earlier answer"
            )
        return mask


def read_bundle(directory: Path) -> dict[str, Any]:
    """What bundle.json says. Raises BundleError when missing, damaged or of another format."""
    path = directory / "bundle.json"
    try:
        about = json.loads(path.read_text())
    except FileNotFoundError:
        raise BundleError(f"{path}: there is no such file; export the model again") from None
    except ValueError as error:
        raise BundleError(f"{path}: damaged ({error}); export the model again") from None
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise BundleError(f"{path}: of format {found}, and this reads {FORMAT}; export it again")
    missing = ", ".join(key for key in _KEYS if key not in about)
    if missing:
        raise BundleError(f"{path}: damaged (it says nothing of {missing}); export the model again")
    return about


def checked_file(directory: Path, name: str, digests: dict[str, str]) -> Path:
    """A file of the bundle. Raises BundleError when its bytes are not those that were exported.

    digests: sha256 of all files by name; of a large one the weights lie in a second file.
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


def _in_onnxruntime(path: Path, threads: int, providers: Sequence[str]) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; of float16 it warns that constants are not folded
    session = onnxruntime.InferenceSession(path, options, providers=list(providers))
    return lambda inputs: session.run(None, inputs)


def _in_openvino(path: Path, threads: int, form: str) -> Run:
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape({given: [1, *given.partial_shape[1:]] for given in model.inputs})
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    if form != "float16":  # without it, OpenVINO takes 16 bits wherever the CPU has them
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    with same_signal_stack():
        compiled = openvino.compile_model(model, "CPU", settings)
    return lambda inputs: list(compiled(inputs).values())


@contextmanager
def same_signal_stack() -> Iterator[None]:
    """Leave the thread the stack on which it handles signals.

    OpenVINO 2026.4 puts one of its own there for each model that it compiles, and the one of before
    back when that model goes: of two models that go in the order they came, the second puts back
    what the first has unmapped, and the next signal kills the process.
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
    """(H, W) that an image of `image_size` (H, W) takes up in a model frame of side `img_size`."""
    scale = img_size / max(image_size)
    return int(image_size[0] * scale + 0.5), int(image_size[1] * scale + 0.5)


def image_to_model_frame(
    image: NDArray[np.uint8], img_size: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """RGB pixels (H, W, 3) to (3, S, S): resized, normalised, then padded below and right."""
    height, width = model_frame_size((image.shape[0], image.shape[1]), img_size)
    pixels = resize(image, (height, width)).astype(np.float32)
    frame = np.zeros((3, img_size, img_size), dtype=np.float32)
    normal = (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
    frame[:, :height, :width] = normal.transpose(2, 0, 1)
    return frame


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image (H, W, 3) at another size (H, W): the bytes of Pillow's bilinear filter.

    It widens with the step between pixels, so nothing is jumped over; columns come before rows, and
    are rounded to bytes in between.
    """
    columns_first = _resize_rows(image.swapaxes(0, 1), size[1])
    return _resize_rows(np.ascontiguousarray(columns_first.swapaxes(0, 1)), size[0])


def _resize_rows(image: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """image: (R, ...). Returns `count` rows, each a weighted sum of neighbouring rows."""
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
    fixed = (weights * 2**_BITS + 0.5).astype(np.int32)
    rows = np.full((count, *image.shape[1:]), 2 ** (_BITS - 1), dtype=np.int32)
    for tap, weight in zip(taps.T, fixed.T, strict=True):  # a matrix would be nearly all zeros
        each = weight.reshape(-1, *[1] * (image.ndim - 1))
        rows += image[np.minimum(tap, len(image) - 1)] * each
    return (rows >> _BITS).clip(0, 255).astype(np.uint8)


def upscale_logits(
    low_res_logits: NDArray[np.float32], img_size: int, image_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Mask logits (M, H, W) in the image frame of low_res_logits (M, S/4, S/4)."""
    height, width = model_frame_size(image_size, img_size)
    logits = _interpolate(low_res_logits, (img_size, img_size))
    return _interpolate(logits[:, :height, :width], image_size)  # what lies outside is padding


def _interpolate(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Maps (M, H, W) at another size, bilinear between the centres of pixels."""
    for axis in (2, 1):
        step = maps.shape[axis] / size[axis - 1]
        places = np.maximum((np.arange(size[axis - 1]) + 0.5) * step - 0.5, 0.0)
        before = places.astype(np.int64)
        after = np.minimum(before + 1, maps.shape[axis] - 1)
        share = (places - before).astype(np.float32)
        share = share if axis == 2 else share[:, None]
        low, high = maps.take(before, axis), maps.take(after, axis)
        maps = low + (high - low) * share
    return maps
