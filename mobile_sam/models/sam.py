"""The whole model: image encoder, prompt encoder and mask decoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.config.sections import ImageOptions
from mobile_sam.coordinates import PIXEL_MEAN, PIXEL_STD, upscale_logits
from mobile_sam.models.mask_decoder import MULTI, SINGLE, Decoded, MaskDecoder
from mobile_sam.models.original_names import accept_original_names
from mobile_sam.models.prompt_encoder import ABSENT, PromptEncoder

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")


class Sam(nn.Module):
    """A promptable segmentation model; `img_size` is the side of its model frame in pixels.

    pixel_mean, pixel_std: of colours in 0..255; they must be those of the original.
    `load_state_dict` accepts the names of `state_dict()` and original names, as in mobile_sam.pt.
    mask_threshold: logits above it belong to a mask. image_options: how the training images were
    read from their files; other files are read in the same way. image_format: the expected order
    of colours.
    """

    mask_threshold: float = 0.0
    image_options: ImageOptions = ImageOptions()
    image_format: str = "RGB"

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__()
        if (*pixel_mean, *pixel_std) != (*PIXEL_MEAN, *PIXEL_STD):
            raise ValueError(f"pixel_mean, pixel_std: they must be {PIXEL_MEAN} and {PIXEL_STD}")
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.img_size = prompt_encoder.img_size
        # Code for the original reads this attribute.
        self.image_encoder.img_size = self.img_size  # type: ignore[assignment]
        self.image_encoder.register_load_state_dict_pre_hook(accept_original_names)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the parameters."""
        return self.mask_decoder.iou_token.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.mask_decoder.iou_token.weight.device

    @property
    def pixel_mean(self) -> Tensor:
        """Tensor (3, 1, 1), per colour in 0..255, in at least 32 bits."""
        return self._per_colour(PIXEL_MEAN)

    @property
    def pixel_std(self) -> Tensor:
        """Tensor (3, 1, 1), per colour in 0..255, in at least 32 bits."""
        return self._per_colour(PIXEL_STD)

    def _per_colour(self, values: Sequence[float]) -> Tensor:
        exact = torch.promote_types(self.dtype, torch.float32)
        return torch.tensor(values, dtype=exact, device=self.device)[:, None, None]

    @torch.no_grad()
    def forward(
        self, batched_input: Sequence[Mapping[str, Any]], multimask_output: bool
    ) -> list[dict[str, Tensor]]:
        """Predict masks of prompts on several images, with the inputs and outputs of the original.

        batched_input: for each image, `image` (3, h, w), its resized pixels in 0..255;
        `original_size` (H, W); and any of these prompts, in the model frame: `point_coords`
        (N, T, 2) xy with `point_labels` (N, T), `boxes` (N, 4) xyxy, and `mask_inputs`
        (N, 1, S/4, S/4).
        Returns for each image `masks`, bool (N, M, H, W); `iou_predictions` (N, M); and
        `low_res_logits` (N, M, S/4, S/4).
        """
        frames = torch.stack([self.preprocess(item["image"]) for item in batched_input])
        results = []
        for item, embedding in zip(batched_input, self.image_encoder(frames), strict=True):
            masks = item.get("mask_inputs")
            points, labels = self.prompt_encoder.as_points(
                item.get("point_coords"), item.get("point_labels"), item.get("boxes"), masks
            )
            low_res, iou = self.decode(embedding[None], points, labels, masks, multimask_output)
            resized = item["image"].shape[-2:]
            logits = self.postprocess_masks(low_res, resized, item["original_size"])
            masks = logits > self.mask_threshold
            results.append({"masks": masks, "iou_predictions": iou, "low_res_logits": low_res})
        return results

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise and pad pixels (..., 3, h, w) in 0..255 to the model frame (..., 3, S, S).

        Raises ValueError if the model frame is too small.
        """
        height, width = x.shape[-2:]
        if max(height, width) > self.img_size:
            raise ValueError(
                f"image: {height} x {width} pixels; resize its longest side to {self.img_size}, "
                "as `ResizeLongestSide` does"
            )
        padding = 0, self.img_size - width, 0, self.img_size - height
        return F.pad((x - self.pixel_mean) / self.pixel_std, padding).to(self.dtype)

    def postprocess_masks(
        self, masks: Tensor, input_size: tuple[int, int], original_size: tuple[int, int]
    ) -> Tensor:
        """Convert low_res_logits (N, M, S/4, S/4) to mask logits (N, M, H, W) in the image frame.

        input_size: (h, w) of the resized image. original_size: (H, W) of the image.
        """
        return upscale_logits(masks, self.img_size, original_size, input_size)

    def decode(
        self,
        image_embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        multimask: bool = False,
        has_mask: Tensor | None = None,
        absent_points: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return low_res_logits (N, M, S/4, S/4) and predicted_iou (N, M) of `decode_all`.

        multimask: the three masks for ambiguous prompts instead of the one for clear prompts.
        """
        outputs = MULTI if multimask else SINGLE
        decoded = self.decode_all(
            image_embedding, points, labels, masks, has_mask, absent_points, outputs
        )
        return decoded.low_res_logits, decoded.predicted_iou

    def decode_all(
        self,
        image_embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        has_mask: Tensor | None = None,
        absent_points: bool = False,
        outputs: range = SINGLE,
    ) -> Decoded:
        """Decode N prompts on B encoded images, N / B of them on each, in the images' order.

        image_embedding: (B, C, S/16, S/16).
        points: (N, T, 2) xy pixels of the model frame; labels: (N, T), see `prompt_encoder`.
        masks: low_res_logits of an earlier prediction, (N, 1, S/4, S/4), or None.
        has_mask: (N,) bool, the prompts whose row of `masks` counts; None for all.
        absent_points: whether labels may be ABSENT: prompts of different lengths in one batch.
        outputs: the masks to predict, one of SINGLE, MULTI and ALL of `mask_decoder`.
        """
        sparse, dense = self.prompt_encoder.embed(points, labels, masks, has_mask)
        positions = self.prompt_encoder.get_dense_pe()
        present = labels != ABSENT if absent_points else None
        return self.mask_decoder.decode(image_embedding, positions, sparse, dense, outputs, present)
