"""Import path of the original for `SamOnnxModel`; `export --onnx` writes files that are checked."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.inference.proposals import stability_scores
from mobile_sam.models.mask_decoder import ALL
from mobile_sam.models.sam import Sam

__all__ = ["SamOnnxModel"]

_STABILITY_OFFSET = 1.0  # in logits
_MAX_AMBIGUOUS_POINTS = 2  # with up to this many, padding included, one of three masks is selected


class SamOnnxModel(nn.Module):
    """Prompt encoder, mask decoder and upscaling as one graph, as the original exports them.

    return_single_mask: return only the best mask of each prompt. use_stability_score: return
    stability scores in the model frame in place of predicted_iou. return_extra_metrics: return five
    outputs.
    """

    def __init__(
        self,
        model: Sam,
        return_single_mask: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.img_size = model.img_size
        self.return_single_mask = return_single_mask
        self.use_stability_score = use_stability_score
        self.return_extra_metrics = return_extra_metrics

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return mask logits (N, M, H, W) in the image frame, scores (N, M), and low_res_logits.

        image_embeddings: (1, C, S/16, S/16). point_coords: (N, T, 2), model frame; point_labels:
        (N, T) float. mask_input: (1, 1, S/4, S/4), used if has_mask_input (1,) is 1.
        orig_im_size: (2,), H and W in pixels. M is 4, or 1 with `return_single_mask`.
        With `return_extra_metrics` stability scores and areas (N, M) come before low_res_logits.
        """
        masks, scores, _ = self.model.decode_all(
            image_embeddings,
            point_coords,
            point_labels.long(),
            mask_input,
            has_mask_input > 0.5,
            outputs=ALL,
        )
        threshold = self.model.mask_threshold
        if self.use_stability_score:
            scores = stability_scores(masks, threshold, _STABILITY_OFFSET)
        if self.return_single_mask:
            masks, scores = self.select_masks(masks, scores, point_coords.shape[1])
        upscaled = self.mask_postprocessing(masks, orig_im_size)
        if not self.return_extra_metrics:
            return upscaled, scores, masks
        areas = (upscaled > threshold).sum(-1).sum(-1)
        stability = stability_scores(upscaled, threshold, _STABILITY_OFFSET)
        return upscaled, scores, stability, areas, masks

    def select_masks(
        self, masks: Tensor, iou_preds: Tensor, num_points: int
    ) -> tuple[Tensor, Tensor]:
        """Select one mask (N, 1, ...) of each prompt, and its predicted IoU (N, 1).

        For many points this is the first mask, for few the best of the other three.
        masks: (N, 4, ...). iou_preds: (N, 4).
        """
        # Arithmetic instead of a condition: the number of points may be an input of the graph.
        first = (num_points - _MAX_AMBIGUOUS_POINTS - 0.5) * 1000
        weights = iou_preds.new_tensor([1.0, 0.0, 0.0, 0.0])
        best = (iou_preds + first * weights).argmax(dim=1)
        rows = torch.arange(masks.shape[0], device=masks.device)
        return masks[rows, best][:, None], iou_preds[rows, best][:, None]

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """Upscale logits (N, M, S/4, S/4) to the image frame, whose size is a tensor here."""
        scale = self.img_size / orig_im_size.float().max()
        height, width = (orig_im_size.float() * scale + 0.5).floor().long().unbind()
        logits = F.interpolate(masks, (self.img_size, self.img_size), mode="bilinear")
        logits = logits[..., :height, :width]
        size: Any = tuple(orig_im_size.long().unbind())
        return F.interpolate(logits, size=size, mode="bilinear")
