"""One image, many prompts: the interface of the original `SamPredictor`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.frames import model_frame_size, upscale_logits
from mobile_sam.models.prompt_encoder import BOTTOM_RIGHT, PADDING, TOP_LEFT
from mobile_sam.models.sam import Sam


class SamPredictor:
    """Encodes an image once and answers prompts on it.

    model: in eval mode; masks are `mask_logits > mask_threshold`.
    """

    def __init__(self, model: Sam, mask_threshold: float = 0.0) -> None:
        self.model = model
        self.mask_threshold = mask_threshold
        self.reset_image()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.features: Tensor | None = None
        self.original_size = (0, 0)

    @torch.no_grad()
    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Encode an image, (H, W, 3) in 0..255. image_format: `RGB` or `BGR`."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"image: {image.dtype} of shape {image.shape}; it must be uint8, (H, W, 3)"
            )
        if image_format not in {"RGB", "BGR"}:
            raise ValueError(f"image_format: {image_format!r}; it must be 'RGB' or 'BGR'")
        pixels = image if image_format == "RGB" else image[..., ::-1]
        self.reset_image()
        frame = image_to_model_frame(np.ascontiguousarray(pixels), self.model.img_size)
        embedding = self.model.image_encoder(frame[None].to(self.device))
        self.set_image_embedding(embedding, (image.shape[0], image.shape[1]))

    def set_image_embedding(self, image_embedding: Tensor, image_size: tuple[int, int]) -> None:
        """Take an image of (H, W) pixels that is encoded already, (1, C, S/16, S/16)."""
        prompts = self.model.prompt_encoder
        wanted = (1, prompts.embed_dim, prompts.grid_size, prompts.grid_size)
        if image_embedding.shape != wanted:
            raise ValueError(
                f"image_embedding: of shape {tuple(image_embedding.shape)}; it must be {wanted}, "
                f"one image as this model's encoder gives it"
            )
        self.features = image_embedding
        self.original_size = image_size
        self.is_image_set = True

    def get_image_embedding(self) -> Tensor:
        """The image_embedding (1, C, S/16, S/16)."""
        if self.features is None:
            raise RuntimeError("no image is set; call set_image first")
        return self.features

    def predict(
        self,
        point_coords: NDArray[np.floating] | None = None,
        point_labels: NDArray[np.integer] | None = None,
        box: NDArray[np.floating] | None = None,
        mask_input: NDArray[np.floating] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[np.generic], NDArray[np.float32], NDArray[np.float32]]:
        """Masks of one prompt in the image frame.

        point_coords: (N, 2) xy pixels; point_labels: (N,), 1 foreground, 0 background.
        box: (4,) xyxy pixels. mask_input: low_res_logits of an earlier answer, (1, S/4, S/4).
        multimask_output: three masks for an ambiguous prompt instead of one.
        Returns masks (M, H, W), bool or with `return_logits` float; predicted_iou (M,); and
        low_res_logits (M, S/4, S/4).
        """
        if (point_coords is None) != (point_labels is None):
            raise ValueError("point_coords and point_labels go together; give both or neither")
        points = labels = boxes = masks = None
        if point_coords is not None and point_labels is not None:
            points = self._to_model_frame(np.asarray(point_coords))[None]
            labels = torch.as_tensor(np.asarray(point_labels), device=self.device).long()[None]
        if box is not None:
            boxes = self._to_model_frame(np.asarray(box).reshape(2, 2)).reshape(1, 4)
        if mask_input is not None:
            masks = torch.as_tensor(mask_input, dtype=torch.float32, device=self.device)[None]
        found = self.predict_torch(points, labels, boxes, masks, multimask_output, return_logits)
        logits, iou, low_res = (tensor[0].cpu().numpy() for tensor in found)
        return logits, iou, low_res

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Masks of B prompts, given in the model frame.

        point_coords: (B, N, 2) xy; point_labels: (B, N); boxes: (B, 4) xyxy;
        mask_input: (B, 1, S/4, S/4).
        Returns masks (B, M, H, W), predicted_iou (B, M), low_res_logits (B, M, S/4, S/4).
        """
        low_res_logits, predicted_iou = self.decode(
            point_coords, point_labels, boxes, mask_input, multimask_output
        )
        masks = upscale_logits(low_res_logits, self.model.img_size, self.original_size)
        if not return_logits:
            masks = masks > self.mask_threshold
        return masks, predicted_iou, low_res_logits

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
        points, labels = self._tokens(point_coords, point_labels, boxes, mask_input)
        return self.model.decode(embedding, points, labels, mask_input, multimask_output)

    def _tokens(
        self,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Points (B, T, 2) and labels (B, T): those given, then corners of boxes or a padding."""
        places: list[Tensor] = []
        kinds: list[Tensor] = []
        if points is not None and labels is not None:
            places, kinds = [points], [labels.long()]
            if boxes is None:
                places.append(points.new_zeros(len(points), 1, 2))
                kinds.append(labels.new_full((len(points), 1), PADDING).long())
        if boxes is not None:
            places.append(boxes.reshape(-1, 2, 2))
            corners = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=self.device)
            kinds.append(corners.expand(len(boxes), 2))
        if not places:
            count = 1 if masks is None else len(masks)
            nothing = torch.zeros(count, 0, 2, device=self.device)
            return nothing, torch.zeros(count, 0, dtype=torch.long, device=self.device)
        return torch.cat(places, dim=1), torch.cat(kinds, dim=1)

    def _to_model_frame(self, points: NDArray[np.floating]) -> Tensor:
        height, width = model_frame_size(self.original_size, self.model.img_size)
        scale = np.array([width / self.original_size[1], height / self.original_size[0]])
        return torch.as_tensor(points * scale, dtype=torch.float32, device=self.device)
