"""The whole model: image encoder, prompt encoder and mask decoder."""

import torch
from torch import Tensor, nn

from mobile_sam.models.mask_decoder import MULTI, SINGLE, Decoded, MaskDecoder
from mobile_sam.models.prompt_encoder import ABSENT, PromptEncoder

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")


class Sam(nn.Module):
    """A promptable segmentation model; `img_size` is the side of its model frame in pixels."""

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        img_size: int,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.img_size = img_size

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.mask_decoder.iou_token.weight.dtype

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
        """low_res_logits (N, M, S/4, S/4) and predicted_iou (N, M) of `decode_all`.

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
        """Masks of N prompts on B encoded images, N / B of them on each, in the images' order.

        image_embedding: (B, C, S/16, S/16).
        points: (N, T, 2) xy pixels of the model frame; labels: (N, T), see `prompt_encoder`.
        masks: low_res_logits of an earlier prediction, (N, 1, S/4, S/4), or None.
        has_mask: (N,) bool, the prompts whose row of `masks` counts; None for all.
        absent_points: whether labels may be ABSENT: prompts of different lengths in one batch.
        outputs: which masks, one of SINGLE, MULTI and ALL of `mask_decoder`.
        """
        sparse, dense = self.prompt_encoder(points, labels, masks, has_mask)
        positions = self.prompt_encoder.dense_positions()
        present = labels != ABSENT if absent_points else None
        return self.mask_decoder(image_embedding, positions, sparse, dense, outputs, present)
