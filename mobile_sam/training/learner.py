"""What one training step computes: the losses of a batch, from one encoder pass per image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mobile_sam.data.dataset import Sample, ValidationSet, collate
from mobile_sam.data.prompts import VALIDATION_PROMPTS
from mobile_sam.models.sam import Sam
from mobile_sam.training.answers import TeacherDecoder
from mobile_sam.training.clicks import with_clicks
from mobile_sam.training.distillation import Distiller
from mobile_sam.training.losses import measured_iou
from mobile_sam.training.objective import Objective
from mobile_sam.training.rounds import answer_prompts, decode, embed
from mobile_sam.training.supervision import Losses, upscaled

# Losses to the truth, which images without masks have none of.
SUPERVISED = ("focal", "dice", "iou", "boundary", "train_iou")
_VALIDATION_BATCH = 8


class Learner(nn.Module):
    """The student with everything that is trained beside it, and what a stage asks of them.

    decoders: of the teachers, where their answers to prompts are compared.
    """

    def __init__(
        self,
        student: Sam,
        distiller: Distiller,
        objective: Objective,
        decoders: Sequence[TeacherDecoder] = (),
    ) -> None:
        super().__init__()
        self.student = student
        self.distiller = distiller
        self.objective = objective
        self.decoders = tuple(decoders)

    def forward(self, batch: Sample) -> Losses:
        """Losses of each image, (B,): `loss`, what the stage minimises, and its parts unweighted.

        `loss` is `sum(weight_i * loss_i) + lambda_coef * distillation`. Parts are the means over an
        image's prompts and over rounds: focal, dice, iou, boundary, distill_<name>; and train_iou.
        Those to the truth are 0 for images without masks.
        """
        goal = self.objective
        embedding = embed(self.student, batch)
        losses: Losses = {}
        if goal.features:
            found = self.distiller(embedding, batch.teacher, goal.features)
            losses |= {f"distill_{name}": loss for name, loss in found.items()}
        if goal.prompted:
            losses |= self._rounds(embedding, batch)
        return losses | self._totals(losses)

    def _rounds(self, embedding: Tensor, batch: Sample) -> Losses:
        """Means over the rounds; each after the first answers one more click."""
        found: list[Losses] = []
        for number in range(self.objective.rounds):
            last = number + 1 == self.objective.rounds
            answers = answer_prompts(
                self.student, self.decoders, self.objective, embedding, batch, last
            )
            found.append({name: loss.mean(1) for name, loss in answers.losses.items()})
            if not last:
                batch = with_clicks(
                    batch, answers.low_res_logits, answers.predicted, answers.target, number
                )
        means = {name: torch.stack([losses[name] for losses in found]).mean(0) for name in found[0]}
        known = batch.labelled.to(self.student.dtype)
        return {name: loss * known if name in SUPERVISED else loss for name, loss in means.items()}

    def _totals(self, losses: Losses) -> Losses:
        goal = self.objective
        terms = [weight * losses[name] for name, weight in goal.supervised.items()]
        compared = goal.features | goal.answers
        if not compared:
            return {"loss": torch.stack(terms).sum(0)}
        parts = [weight * losses[f"distill_{name}"] for name, weight in compared.items()]
        distillation = torch.stack(parts).sum(0)
        terms.append(goal.lambda_coef * distillation)
        return {"distillation": distillation, "loss": torch.stack(terms).sum(0)}


@torch.no_grad()
def validation_iou(student: Sam, dataset: ValidationSet, device: torch.device) -> dict[str, float]:
    """Mean IoU in the model frame, by kind of prompt, of a student in eval mode."""
    found: dict[str, list[float]] = {kind: [] for kind in VALIDATION_PROMPTS}
    for batch in DataLoader(dataset, batch_size=_VALIDATION_BATCH, collate_fn=collate):
        sample = batch.to(device)
        decoded = decode(student, embed(student, sample), sample)
        logits = upscaled(decoded.low_res_logits, student.img_size)[:, 0]
        truth = sample.masks.flatten(0, 1).to(logits.dtype)
        valid = sample.valid.repeat_interleave(sample.masks.shape[1], dim=0).to(logits.dtype)
        iou = measured_iou(logits, truth, valid).view(len(sample.image), len(found), -1)
        for i, kind in enumerate(found):
            found[kind] += iou[:, i].flatten().tolist()
    return {kind: sum(values) / len(values) for kind, values in found.items()}
