"""Images that are encoded once, and many prompts: the interface of the original `SamPredictor`."""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.inference.resizing import ResizeLongestSide
from mobile_sam.models.sam import Sam

Size = tuple[int, int]
_Array = TypeVar("_Array", Tensor, NDArray[Any])


class Prediction(NamedTuple, Generic[_Array]):
    """M masks of a prompt, or of each of B prompts, which then come first in each shape.

    masks: (M, H, W), bool or with `return_logits` float, in the image frame.
    predicted_iou: (M,). low_res_logits: (M, S/4, S/4), model frame, before the threshold.
    """

    masks: _Array
    predicted_iou: _Array
    low_res_logits: _Array


class Encoded(NamedTuple):
    """An image that is encoded.

    features: its image_embedding, (1, C, S/16, S/16). original_size: (H, W) of the image in pixels.
    input_size: (H, W) that it takes up in the model frame.
    """

    features: Tensor
    original_size: Size
    input_size: Size


class SamPredictor:
    """Encodes images once and answers prompts on one of them.

    sam_model: in eval mode. Masks are `mask_logits > mask_threshold`; None: that of the model.
    transform: from the image frame to the model frame. images: all that are encoded.
    """

    def __init__(self, sam_model: Sam, mask_threshold: float | None = None) -> None:
        self.model = sam_model
        self.transform = ResizeLongestSide(sam_model.img_size)
        self._mask_threshold = mask_threshold
        self.reset_image()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def mask_threshold(self) -> float:
        """Logits above it belong to a mask."""
        own = self._mask_threshold
        return self.model.mask_threshold if own is None else own

    def reset_image(self) -> None:
        """Forget all images."""
        self.images: list[Encoded] = []
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

        image_format: `RGB` or `BGR`. Prompts are on the first, until `select_image` is called.
        """
        if image_format not in {"RGB", "BGR"}:
            raise ValueError(f"image_format: {image_format!r}; it must be 'RGB' or 'BGR'")
        if len(images) == 0:
            raise ValueError("images: there is none; give one or more")
        turned = image_format != self.model.image_format
        frames = torch.stack([self._in_model_frame(image, turned) for image in images])
        self.reset_image()
        embeddings = self.model.image_encoder(frames.to(self.device, self.model.dtype))
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        self._take(embeddings, sizes, [self._input_size(size) for size in sizes])

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: Size) -> None:
        """Encode an image that `transform` has resized, (1, 3, H, W) RGB in 0..255.

        original_image_size: (H, W) of the image in pixels.
        """
        shape, side = tuple(transformed_image.shape), self.model.img_size
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise ValueError(
                f"transformed_image: of shape {shape}; it must be (1, 3, H, W), its longer side "
                f"{side} pixels; several images are given to set_images"
            )
        self.reset_image()
        frame = self.model.preprocess(transformed_image.to(self.device))
        self._take(self.model.image_encoder(frame), [original_image_size], [shape[2:]])

    def set_image_embedding(self, image_embedding: Tensor, image_size: Size) -> None:
        """Take an image of (H, W) pixels that is encoded already, (1, C, S/16, S/16)."""
        prompts = self.model.prompt_encoder
        wanted = (1, prompts.embed_dim, prompts.grid_size, prompts.grid_size)
        if image_embedding.shape != wanted:
            raise ValueError(
                f"image_embedding: of shape {tuple(image_embedding.shape)}; it must be {wanted}, "
                f"one image as this model's encoder gives it"
            )
        self._take(image_embedding, [image_size], [self._input_size(image_size)])

    def select_image(self, number: int) -> None:
        """Answer prompts on the `number`-th of the images that were set, from 0 on."""
        if not 0 <= number < len(self.images):
            raise ValueError(
                f"number: {number}, but {len(self.images)} images are set; they count from 0"
            )
        self.features, self.original_size, self.input_size = self.images[number]
        self.is_image_set = True

    def get_image_embedding(self) -> Tensor:
        """The image_embedding (1, C, S/16, S/16)."""
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
        """Masks of one prompt in the image frame.

        point_coords: (N, 2) xy pixels; point_labels: (N,), 1 foreground, 0 background.
        box: (4,) xyxy pixels. mask_input: low_res_logits of an earlier answer, (1, S/4, S/4).
        multimask_output: three masks for an ambiguous prompt instead of one.
        """
        self.get_image_embedding()
        if (point_coords is None) != (point_labels is None):
            raise ValueError("point_coords and point_labels go together; give both or neither")
        points = labels = boxes = masks = None
        if point_coords is not None and point_labels is not None:
            places = self.transform.apply_coords(point_coords, self.original_size)
            points = torch.as_tensor(places, dtype=torch.float32, device=self.device)[None]
            labels = torch.as_tensor(np.asarray(point_labels), device=self.device).long()[None]
        if box is not None:
            if np.size(box) != 4:
                raise ValueError(
                    f"box: of shape {np.shape(box)}; it must be (4,); predict_torch takes several"
                )
            places = self.transform.apply_boxes(np.asarray(box), self.original_size)
            boxes = torch.as_tensor(places, dtype=torch.float32, device=self.device)
        if mask_input is not None:
            masks = torch.as_tensor(mask_input, dtype=torch.float32, device=self.device)[None]
        found = self.predict_torch(points, labels, boxes, masks, multimask_output, return_logits)
        return Prediction(*(tensor[0].cpu().numpy() for tensor in found))

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
        """Masks of B prompts, given in the model frame.

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
        """low_res_logits and predicted_iou of `predict_torch`, which takes the same prompts."""
        embedding = self.get_image_embedding()
        points, labels = self.model.prompt_encoder.as_points(
            point_coords, point_labels, boxes, mask_input
        )
        return self.model.decode(embedding, points, labels, mask_input, multimask_output)

    def _in_model_frame(self, image: NDArray[np.uint8], turned: bool) -> Tensor:
        """(3, S, S), with the order of colours turned round or not."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"image: {image.dtype} of shape {image.shape}; it must be uint8, (H, W, 3)"
            )
        pixels = np.ascontiguousarray(image[..., ::-1] if turned else image)
        return image_to_model_frame(pixels, self.model.img_size)

    def _input_size(self, image_size: Size) -> Size:
        return self.transform.get_preprocess_shape(*image_size, self.model.img_size)

    def _take(self, embeddings: Tensor, sizes: list[Size], input_sizes: list[Size]) -> None:
        found = zip(embeddings.split(1), sizes, input_sizes, strict=True)
        self.images = [Encoded(*facts) for facts in found]
        self.select_image(0)
