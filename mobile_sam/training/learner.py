"""What one training step computes: the losses of a batch, from one encoder pass per image."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mobile_sam.data.dataset import Sample, ValidationSet, collate
from mobile_sam.data.prompts import VALIDATION_PROMPTS
from mobile_sam.models.prompt_encoder import ABSENT
from mobile_sam.models.sam import Sam
from mobile_sam.schedule import Stage
from mobile_sam.training.clicks import with_clicks
from mobile_sam.training.distillation import Distiller
from mobile_sam.training.losses import dice, focal, iou_error, measured_iou

Losses = dict[str, Tensor]
SUPERVISED = ("focal", "dice", "iou", "boundary", "train_iou")
_VALIDATION_BATCH = 8


class Prediction(NamedTuple):
    """low_res_logits (B*P, 1, S/4, S/4); logits (B*P, S, S), model frame; predicted_iou (B*P,)."""

    low_res_logits: Tensor
    logits: Tensor
    predicted_iou: Tensor


class Learner(nn.Module):
    """The student with everything that is trained beside it."""

    def __init__(self, student: Sam, distiller: Distiller, stage: Stage | None = None) -> None:
        super().__init__()
        self.student = student
        self.distiller = distiller
        self.stage = stage

    def forward(self, batch: Sample) -> Losses:
        """Losses of each image, (B,): `loss`, the weighted total; its terms; and `train_iou`."""
        stage = self.stage
        if stage is None:
            raise ValueError("a learner without a stage has no losses")
        embedding = embed(self.student, batch)
        losses: Losses = {}
        if stage.distils:
            each = [
                self.distiller(embedding[i : i + 1], {k: v[i : i + 1] for k, v in teacher.items()})
                for i, teacher in enumerate([batch.teacher] * len(embedding))
            ]
            losses["distillation"] = torch.stack(each)
        if stage.supervised:
            losses |= self._supervised(embedding, batch, stage.prompt_rounds)
        weights = {**stage.loss_weights.model_dump(), "distillation": stage.lambda_coef}
        terms = [w * losses[name] for name, w in weights.items() if name in losses]
        return {"loss": torch.stack(terms).sum(0), **losses}

    def _supervised(self, embedding: Tensor, batch: Sample, rounds: int) -> Losses:
        found: list[Losses] = []
        for number in range(rounds):
            prediction = predict(self.student, embedding, batch)
            found.append(_mask_losses(prediction, batch))
            if number + 1 < rounds:
                batch = with_clicks(batch, prediction.low_res_logits, prediction.logits, number)
        means = {n: torch.stack([losses[n] for losses in found]).mean(0) for n in found[0]}
        labelled = batch.labelled.to(embedding.dtype)
        return {name: value.mean(1) * labelled for name, value in means.items()}


def _mask_losses(prediction: Prediction, batch: Sample) -> Losses:
    """Unweighted losses of one round, each (B, P)."""
    _, logits, predicted_iou = prediction
    truth = batch.masks.flatten(0, 1).to(logits.dtype)  # (B*P, S, S)
    prompts = batch.masks.shape[1]
    valid = batch.valid.repeat_interleave(prompts, dim=0).to(logits.dtype)
    measured = measured_iou(logits, truth, valid)
    losses = {
        "focal": focal(logits, truth, valid),
        "dice": dice(logits, truth, valid),
        "iou": iou_error(predicted_iou, measured),
        "train_iou": measured,
    }
    return {name: value.unflatten(0, (-1, prompts)) for name, value in losses.items()}


def embed(student: Sam, batch: Sample) -> Tensor:
    """Embeddings (B, C, S/16, S/16) of a batch's images, or those that it comes with."""
    if batch.embedding.numel():
        return batch.embedding.to(next(student.parameters()).dtype)
    return student.image_encoder(batch.image.to(next(student.parameters()).dtype))


def predict(student: Sam, embedding: Tensor, batch: Sample) -> Prediction:
    """The answer to a batch's prompts."""
    labels = batch.labels.flatten(0, 1)
    with_masks = batch.mask_prompts.numel() > 0
    low_res_logits, predicted_iou = student.decode(
        embedding,
        batch.points.flatten(0, 1),
        labels,
        batch.mask_prompts.flatten(0, 1) if with_masks else None,
        has_mask=batch.has_mask.flatten(0, 1) if with_masks else None,
        absent_points=labels.shape[1] > 2 and bool((labels == ABSENT).any()),
    )
    size = (student.img_size, student.img_size)
    exact = torch.promote_types(low_res_logits.dtype, torch.float32)
    logits = F.interpolate(low_res_logits.to(exact), size, mode="bilinear")
    return Prediction(low_res_logits, logits[:, 0], predicted_iou[:, 0].to(exact))


@torch.no_grad()
def validation_iou(student: Sam, dataset: ValidationSet, device: torch.device) -> dict[str, float]:
    """Mean IoU in the model frame, by kind of prompt, of a student in eval mode."""
    found: dict[str, list[float]] = {kind: [] for kind in VALIDATION_PROMPTS}
    for batch in DataLoader(dataset, batch_size=_VALIDATION_BATCH, collate_fn=collate):
        sample = batch.to(device)
        logits = predict(student, embed(student, sample), sample).logits
        truth = sample.masks.flatten(0, 1).float()
        valid = sample.valid.repeat_interleave(sample.masks.shape[1], dim=0).float()
        iou = measured_iou(logits, truth, valid).view(len(sample.image), len(found), -1)
        for i, kind in enumerate(found):
            found[kind] += iou[:, i].flatten().tolist()
    return {kind: sum(values) / len(values) for kind, values in found.items()}
