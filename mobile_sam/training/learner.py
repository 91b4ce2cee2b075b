"""What one training step computes: the losses of a batch, from one encoder pass per image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.config import LossWeights
from mobile_sam.data.dataset import Sample
from mobile_sam.models.sam import Sam
from mobile_sam.training.distillation import Distiller
from mobile_sam.training.losses import dice, focal, iou_error, measured_iou

Losses = dict[str, Tensor]


class Learner(nn.Module):
    """The student with everything that is trained beside it."""

    def __init__(self, student: Sam, distiller: Distiller) -> None:
        super().__init__()
        self.student = student
        self.distiller = distiller

    def forward(self, batch: Sample, supervised: bool, distil: bool) -> Losses:
        """Unweighted losses, each a scalar: focal, dice, iou; distillation; and `train_iou`.

        supervised, distil: which of the two kinds are computed at all.
        """
        embedding = self.student.image_encoder(batch.image)  # (B, C, S/16, S/16)
        losses: Losses = {}
        if distil:
            losses["distillation"] = self.distiller(embedding, batch.teacher)
        if supervised:
            losses |= self._supervised(embedding, batch)
        return losses

    def _supervised(self, embedding: Tensor, batch: Sample) -> Losses:
        logits, predicted_iou = predict(self.student, embedding, batch)
        truth = batch.masks.flatten(0, 1).float()  # (B*P, S, S)
        prompts = batch.masks.shape[1]
        valid = batch.valid.repeat_interleave(prompts, dim=0).float()
        measured = measured_iou(logits, truth, valid)
        return {
            "focal": focal(logits, truth, valid).mean(),
            "dice": dice(logits, truth, valid).mean(),
            "iou": iou_error(predicted_iou, measured).mean(),
            "train_iou": measured.mean(),
        }


def predict(student: Sam, embedding: Tensor, batch: Sample) -> tuple[Tensor, Tensor]:
    """Logits (B*P, S, S) in the model frame and predicted_iou (B*P,) of a batch's prompts."""
    low_res_logits, predicted_iou = student.decode(
        embedding, batch.points.flatten(0, 1), batch.labels.flatten(0, 1)
    )
    size = (student.img_size, student.img_size)
    logits = F.interpolate(low_res_logits.float(), size, mode="bilinear")
    return logits[:, 0], predicted_iou[:, 0].float()


def total_loss(losses: Losses, weights: LossWeights, lambda_coef: float) -> Tensor:
    """`sum(weight_i * loss_i) + lambda_coef * distillation`, a scalar."""
    all_weights = {**weights.model_dump(), "distillation": lambda_coef}
    terms = [w * losses[name] for name, w in all_weights.items() if name in losses]
    return torch.stack(terms).sum()


@torch.no_grad()
def validation_iou(student: Sam, batch: Sample, kinds: list[str]) -> dict[str, list[float]]:
    """IoU of each prompt of a validation batch, in the model frame, by kind of prompt."""
    logits, _ = predict(student, student.image_encoder(batch.image), batch)
    truth = batch.masks.flatten(0, 1).float()
    prompts = batch.masks.shape[1]
    valid = batch.valid.repeat_interleave(prompts, dim=0).float()
    iou = measured_iou(logits, truth, valid).view(len(batch.image), len(kinds), -1)
    return {kind: iou[:, i].flatten().tolist() for i, kind in enumerate(kinds)}
