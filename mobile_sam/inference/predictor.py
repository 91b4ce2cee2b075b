"""`SamPredictor` and `ResizeLongestSide`: encode an image once, then decode many prompts."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mobile_sam.coordinates import model_frame_size, points_to_model_frame
from mobile_sam.data.transforms import image_to_model_frame, resize_image
from mobile_sam.models.sam import Sam

Size = tuple[int, int]
ImageSize = tuple[int, ...]  # (H, W); the first two of an array's shape
_Array = TypeVar("_Array", Tensor, NDArray[Any])


class ResizeLongestSide:
    """Transform from the image frame to the model frame, with the original's interface.

    target_length: pixels of the longest side after resizing.
    Sizes are (H, W) of the original image in pixels; points are xy, boxes xyxy.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize pixels (H, W, 3) in 0..255 with the resampling used in training."""
        return resize_image(image, self.target_length)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Resize images (B, C, H, W), float; the result differs slightly from `apply_image`."""
        height, width = image.shape[-2:]
        size = self.get_preprocess_shape(height, width, self.target_length)
        return F.interpolate(image, size, mode="bilinear", antialias=True)

    def apply_coords(
        self, coords: NDArray[np.generic], original_size: ImageSize
    ) -> NDArray[np.float64]:
        """Convert points (..., 2) to the model frame."""
        height, width = original_size[:2]
        resized = self.get_preprocess_shape(height, width, self.target_length)
        scale = np.array([resized[1] / width, resized[0] / height])
        return np.asarray(coords, dtype=np.float64) * scale

    def apply_boxes(
        self, boxes: NDArray[np.generic], original_size: ImageSize
    ) -> NDArray[np.float64]:
        """Convert boxes (N, 4) to the model frame."""
        return self.apply_coords(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: ImageSize) -> Tensor:
        """Convert points (..., 2) to the model frame."""
        height, width = original_size[:2]
        return points_to_model_frame(coords.float(), (height, width), self.target_length)

    def apply_boxes_torch(self, boxes: Tensor, original_size: ImageSize) -> Tensor:
        """Convert boxes (N, 4) to the model frame."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Return the (H, W) that an image of `oldh` x `oldw` pixels takes up in the model frame."""
        return model_frame_size((oldh, oldw), long_side_length)


class Prediction(NamedTuple, Generic[_Array]):
    """M masks of one prompt, or of B prompts; then B comes first in each shape.

    masks: (M, H, W), bool or with `return_logits` float, in the image frame.
    predicted_iou: (M,). low_res_logits: (M, S/4, S/4), model frame, before the threshold.
    """

    masks: _Array
    predicted_iou: _Array
    low_res_logits: _Array


class EncodedImage(NamedTuple):
    """Embedding and sizes of an image.

    features: image_embedding, (1, C, S/16, S/16). original_size: (H, W) of the image in pixels.
    input_size: (H, W) that it takes up in the model frame.
    """

    features: Tensor
    original_size: Size
    input_size: Size


class SamPredictor:
    """Predictor that encodes images once and decodes prompts on one of them.

    sam_model: in eval mode. mask_threshold: logits above it belong to a mask; None: the model's.
    transform: from the image frame to the model frame. images: all encoded images.
    """

    def __init__(self, sam_model: Sam, mask_threshold: float | None = None) -> None:
        self.model = sam_model
        self.transform = ResizeLongestSide(sam_model.img_size)
        self._mask_threshold = mask_threshold
        self.reset_image()

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @property
    def mask_threshold(self) -> float:
        """Threshold of mask logits: logits above it belong to a mask."""
        threshold = self._mask_threshold
        return self.model.mask_threshold if threshold is None else threshold

    def reset_image(self) -> None:
        """Forget all images."""
        self.images: list[EncodedImage] = []
        self.is_image_set = False
        self.features: Tensor | None = None
        self.original_size: Size = (0, 0)
        self.input_size: Size = (0, 0)

    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Encode an image, (H, W, 3) in 0..255. image_format: `RGB` or `BGR`."""
        self.set_images([image], image_format)

    @torch.no_grad()
    def set_images(self, images: Sequence[NDArray[np.uint8]], image_format: str = "RGB") -> None:
        """Encode images of any sizes, each (H, W, 3) in 0..255, in one pass of the encoder.

        image_format: `RGB` or `BGR`. Prompts apply to the first image until `select_image` is
        called.
        """
        if image_format not in {"RGB", "BGR"}:
            raise ValueError(f"image_format: {image_format!r}; it must be 'RGB' or 'BGR'")
        if len(images) == 0:
            raise ValueError("images: empty; give at least one image")
        flip = image_format != self.model.image_format
        frames = torch.stack([self._to_model_frame(image, flip) for image in images])
        self.reset_image()
        embeddings = self.model.image_encoder(frames.to(self.device, self.model.dtype))
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        self._set_embeddings(embeddings, sizes, [self._input_size(size) for size in sizes])

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: Size) -> None:
        """Encode an image (1, 3, H, W), RGB in 0..255, that `transform` has resized.

        original_image_size: (H, W) of the image in pixels.
        """
        shape, side = tuple(transformed_image.shape), self.model.img_size
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise ValueError(
                f"transformed_image: of shape {shape}; it must be (1, 3, H, W), its longer side "
                f"{side} pixels; give several images to set_images"
            )
        self.reset_image()
        frame = self.model.preprocess(transformed_image.to(self.device))
        embedding = self.model.image_encoder(frame)
        self._set_embeddings(embedding, [original_image_size], [shape[2:]])

    def set_image_embedding(self, image_embedding: Tensor, image_size: Size) -> None:
        """Set the embedding (1, C, S/16, S/16) of an image of (H, W) pixels."""
        encoder = self.model.prompt_encoder
        expected = (1, encoder.embed_dim, encoder.grid_size, encoder.grid_size)
        if image_embedding.shape != expected:
            raise ValueError(
                f"image_embedding: of shape {tuple(image_embedding.shape)}; it must be {expected}, "
                f"the embedding of one image by this model"
            )
        self._set_embeddings(image_embedding, [image_size], [self._input_size(image_size)])

    def select_image(self, number: int) -> None:
        """Apply later prompts to the image of this number, counted from 0."""
        if not 0 <= number < len(self.images):
            raise ValueError(
                f"number: {number}, but {len(self.images)} images are set; counting starts at 0"
            )
        self.features, self.original_size, self.input_size = self.images[number]
        self.is_image_set = True

    def get_image_embedding(self) -> Tensor:
        """Return the image_embedding (1, C, S/16, S/16)."""
        if not self.is_image_set or self.features is None:
            raise RuntimeError("no image is set; call set_image first")
        return self.features

    def predict(
        self,
        point_coords: NDArray[np.generic] | None = None,
        point_labels: NDArray[np.generic] | None = None,
        box: NDArray[np.generic] | None = None,
        mask_input: NDArray[np.generic] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Prediction[NDArray[Any]]:
        """Predict the masks of one prompt, in the image frame.

        point_coords: (N, 2) xy pixels; point_labels: (N,), 1 foreground, 0 background.
        box: (4,) xyxy pixels. mask_input: low_res_logits of an earlier prediction, (1, S/4, S/4).
        multimask_output: three masks for an ambiguous prompt instead of one.
        Arrays have the model's precision; float32 for bfloat16, which numpy lacks.
        Raises ValueError for an invalid prompt.
        """
        self.get_image_embedding()
        if (point_coords is None) != (point_labels is None):
            raise ValueError("point_coords and point_labels go together; give both or neither")
        points = labels = boxes = masks = None
        if point_coords is not None and point_labels is not None:
            coords = self.transform.apply_coords(point_coords, self.original_size)
            points = torch.as_tensor(coords, dtype=torch.float32, device=self.device)[None]
            labels = torch.as_tensor(np.asarray(point_labels), device=self.device).long()[None]
        if box is not None:
            if np.size(box) != 4:
                raise ValueError(
                    f"box: of shape {np.shape(box)}; it must be (4,); predict_torch takes several"
                )
            corners = self.transform.apply_boxes(np.asarray(box), self.original_size)
            boxes = torch.as_tensor(corners, dtype=torch.float32, device=self.device)
        if mask_input is not None:
            masks = torch.as_tensor(mask_input, dtype=torch.float32, device=self.device)[None]
        result = self.predict_torch(points, labels, boxes, masks, multimask_output, return_logits)
        return Prediction(*(_as_numpy(tensor[0]) for tensor in result))

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Prediction[Tensor]:
        """Predict the masks of B prompts, which are in the model frame.

        point_coords: (B, N, 2) xy; point_labels: (B, N); boxes: (B, 4) xyxy;
        mask_input: (B, 1, S/4, S/4).
        """
        low_res_logits, predicted_iou = self.decode(
            point_coords, point_labels, boxes, mask_input, multimask_output
        )
        masks = self.model.postprocess_masks(low_res_logits, self.input_size, self.original_size)
        if not return_logits:
            masks = masks > self.mask_threshold
        return Prediction(masks, predicted_iou, low_res_logits)

    @torch.no_grad()
    def decode(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return low_res_logits and predicted_iou of the prompts of `predict_torch`."""
        embedding = self.get_image_embedding().to(self.model.dtype)
        points, labels = self.model.prompt_encoder.as_points(
            point_coords, point_labels, boxes, mask_input
        )
        return self.model.decode(embedding, points, labels, mask_input, multimask_output)

    def _to_model_frame(self, image: NDArray[np.uint8], flip_channels: bool) -> Tensor:
        """Convert an image (H, W, 3) to the model frame (3, S, S)."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"image: {image.dtype} of shape {image.shape}; it must be uint8, (H, W, 3)"
            )
        pixels = np.ascontiguousarray(image[..., ::-1] if flip_channels else image)
        return image_to_model_frame(pixels, self.model.img_size)

    def _input_size(self, image_size: Size) -> Size:
        return self.transform.get_preprocess_shape(*image_size, self.model.img_size)

    def _set_embeddings(
        self, embeddings: Tensor, sizes: list[Size], input_sizes: list[Size]
    ) -> None:
        rows = zip(embeddings.split(1), sizes, input_sizes, strict=True)
        self.images = [EncodedImage(*row) for row in rows]
        self.select_image(0)


def _as_numpy(tensor: Tensor) -> NDArray[Any]:
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).cpu().numpy()
