"""One training step, in the order in which it is computed.

1. Encode: compute the student's embedding of each image.
2. Decode: predict the student's masks of each prompt. Further rounds add corrective clicks.
3. Losses to the truth: for the one mask, and for the best of three masks of an ambiguous prompt.
4. Losses to the teachers: between embeddings, and between results of both decoders for a prompt.
5. Total: the weighted sum.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mobile_sam.config.losses import LOSSES, LossWeights
from mobile_sam.config.run import RunConfig
from mobile_sam.config.sections import ClickTarget
from mobile_sam.config.stage import Stage
from mobile_sam.data.sampling.dataset import Sample
from mobile_sam.models.mask_decoder import ALL, SINGLE, Decoded
from mobile_sam.models.prompt_encoder import ABSENT, FOREGROUND
from mobile_sam.models.sam import Sam
from mobile_sam.system.errors import ConfigError
from mobile_sam.training.clicks import with_clicks
from mobile_sam.training.losses import FUNCTIONS, full_precision, measured_iou
from mobile_sam.training.mask_points import losses_at_points, random_pixels
from mobile_sam.training.teacher import FeatureProjections, TeacherDecoder

Losses = dict[str, Tensor]

# Losses and metrics that need masks; images without masks have none of them.
SUPERVISED = (*LossWeights.model_fields, "train_iou")

_STRIDE = 16  # pixels of the model frame along one place of the image embedding
_MASKS_AT_ONCE = 4  # masks that are compared at a time to find the best of three


@dataclass(frozen=True)
class Objective:
    """Weights of the losses of a stage, and how its prompts are decoded.

    truth_losses: losses to the truth; empty for a stage without masks.
    feature_losses, prompt_losses: losses to the teachers; empty without distillation.
    lambda_coef: weight of the sum of the losses to the teachers.
    prompt_rounds: number of rounds; each after the first adds a click where the student differs
        from the truth or the teacher, as `click_target` says.
    multimask: whether single points get three masks, of which the best is trained.
    decoder_chunk_size: number of prompts that are decoded at a time.
    mask_loss_points: number of points at which losses of masks to the truth are computed; None: at
        all pixels.
    """

    truth_losses: dict[str, float]
    feature_losses: dict[str, float]
    prompt_losses: dict[str, float]
    lambda_coef: float = 1.0
    prompt_rounds: int = 1
    click_target: ClickTarget = "truth"
    multimask: bool = True
    decoder_chunk_size: int = 32
    mask_loss_points: int | None = None

    @property
    def three_masks(self) -> bool:
        """Return whether any loss uses the three masks of ambiguous prompts."""
        return self.multimask or bool(self.prompt_losses)

    @property
    def prompted(self) -> bool:
        """Return whether any loss needs masks of prompts."""
        return bool(self.truth_losses or self.prompt_losses)


def stage_objective(config: RunConfig, stage: Stage) -> Objective:
    """Return the objective of a stage."""
    return Objective(
        truth_losses=stage.loss_weights.computed,
        feature_losses=stage.distill_losses.nonzero("features") if stage.distillation else {},
        prompt_losses=stage.distill_losses.nonzero("prompts") if stage.distillation else {},
        lambda_coef=stage.lambda_coef,
        prompt_rounds=stage.prompt_rounds,
        click_target=stage.click_target,
        multimask=config.multimask,
        decoder_chunk_size=config.decoder_chunk_size,
        mask_loss_points=stage.mask_loss_points,
    )


class TrainingModule(nn.Module):
    """The student, the projections that are trained with it, and the objective of a stage.

    decoders: decoders of the teachers if prompts are distilled.
    """

    def __init__(
        self,
        student: Sam,
        distiller: FeatureProjections,
        objective: Objective,
        decoders: Sequence[TeacherDecoder] = (),
    ) -> None:
        super().__init__()
        self.student = student
        self.distiller = distiller
        self.objective = objective
        self.decoders = tuple(decoders)

    def forward(self, batch: Sample) -> Losses:
        """Compute the losses of each image, (B,): `loss`, which the stage minimises, and its parts.

        `loss` is `per_labelled * sum(weight_i * loss_i) + lambda_coef * distillation`, so that its
        mean over a step is a mean over images with masks, plus one over all images. The parts are
        unweighted means over an image's prompts and over rounds: focal, dice, iou, boundary,
        distill_<name>; and train_iou. Losses to the truth are 0 for images without masks.
        """
        objective, losses = self.objective, Losses()
        embedding = encode(self.student, batch)  # (B, C, S/16, S/16)
        if objective.feature_losses:
            places = image_places(batch.size, embedding.shape[-1])
            arguments = self.distiller, embedding, batch.teacher, places
            losses |= feature_losses(*arguments, objective.feature_losses)
        if objective.prompted:
            losses |= self._prompted_losses(embedding, batch)
        return losses | total_loss(losses, objective, batch.per_labelled)

    def _prompted_losses(self, embedding: Tensor, batch: Sample) -> Losses:
        """Return the losses of masks, (B,); 0 for images with neither masks nor a teacher."""
        if self.objective.prompt_losses or bool(batch.labelled.all()):
            return self._mean_over_rounds(embedding, batch)
        known = batch.labelled.nonzero().squeeze(1)
        # Every rank must take part in every step: if no image has masks, one counts with 0.
        known = known if len(known) else known.new_zeros(1)
        losses = self._mean_over_rounds(embedding[known], batch.rows(known))
        zeros = torch.zeros(len(embedding), device=embedding.device)
        return {name: zeros.to(loss).index_copy(0, known, loss) for name, loss in losses.items()}

    def _mean_over_rounds(self, embedding: Tensor, batch: Sample) -> Losses:
        """Return mean losses over all rounds; each after the first adds a click to each prompt."""
        round_losses: list[Losses] = []
        for number in range(self.objective.prompt_rounds):
            last = number + 1 == self.objective.prompt_rounds
            decoded = decode_round(
                self.student, self.decoders, self.objective, embedding, batch, number, last
            )
            round_losses.append({name: loss.mean(1) for name, loss in decoded.losses.items()})
            if not last:
                batch = with_clicks(
                    batch, decoded.low_res_logits, decoded.predicted, decoded.target, number
                )
        means = {
            name: torch.stack([losses[name] for losses in round_losses]).mean(0)
            for name in round_losses[0]
        }
        known = batch.labelled.to(self.student.dtype)
        return {name: loss * known if name in SUPERVISED else loss for name, loss in means.items()}


# 1. Encode


def encode(student: Sam, batch: Sample) -> Tensor:
    """Return the embeddings (B, C, S/16, S/16) of a batch's images, computed unless given."""
    if batch.embedding.numel():
        return batch.embedding.to(student.dtype)
    return student.image_encoder(batch.normalised().to(student.dtype))


# 2. Decode


class Round(NamedTuple):
    """Result of a round of prompts. losses: (B, P) by name, unweighted.

    The other fields are for the next click; they are empty after the last round.
    low_res_logits: (B, P, 1, S/4, S/4), the masks that a person would continue with; without
        gradient.
    predicted: (B, P, S, S) bool, these masks. target: (B, P, S, S) bool, the masks that clicks
        aim at: the truth, or the first teacher's mask, which images without masks have, too.
    """

    losses: Losses
    low_res_logits: Tensor = torch.empty(0)
    predicted: Tensor = torch.empty(0)
    target: Tensor = torch.empty(0)


def decode_round(
    student: Sam,
    decoders: Sequence[TeacherDecoder],
    objective: Objective,
    embedding: Tensor,
    batch: Sample,
    number: int = 0,
    last: bool = False,
) -> Round:
    """Decode a batch's prompts on its embeddings (B, C, S/16, S/16).

    number: number of the round, from 0. last: whether no click follows.
    More prompts than `objective.decoder_chunk_size` are decoded in chunks. Each chunk is decoded
    again in the backward pass, so that memory holds the activations of one chunk only.
    """
    chunks = list(_chunks(batch, objective.decoder_chunk_size))
    chunk_losses: list[Losses] = []
    click_inputs = []
    first = 0
    for chunk in chunks:
        teachers = [
            (d.share, d(chunk.teacher[d.name], **_prompts(chunk, d.dtype), outputs=ALL))
            for d in decoders
        ]
        arguments = (student, objective, embedding, chunk, teachers, first, number)
        if len(chunks) > 1 and torch.is_grad_enabled():
            losses, low_res_logits = checkpoint(
                *(_decode_chunk, *arguments), use_reentrant=False, preserve_rng_state=False
            )
        else:
            losses, low_res_logits = _decode_chunk(*arguments)
        first += chunk.labels.shape[1]
        chunk_losses.append({name: x.view(chunk.labels.shape[:2]) for name, x in losses.items()})
        if not last:
            size = student.img_size
            click_inputs.append(_click_inputs(low_res_logits, chunk, objective, teachers, size))
    return Round(
        {
            name: torch.cat([losses[name] for losses in chunk_losses], dim=1)
            for name in chunk_losses[0]
        },
        *(torch.cat(tensors, dim=1) for tensors in zip(*click_inputs, strict=True)),
    )


def _decode_chunk(
    student: Sam,
    objective: Objective,
    embedding: Tensor,
    chunk: Sample,
    teachers: Sequence[tuple[float, Decoded]],
    first: int,
    number: int,
) -> tuple[Losses, Tensor]:
    """Return losses (B*P,) by name, and low_res_logits (B*P, 1, S/4, S/4) to continue with.

    first: place of the chunk's first prompt in its sample. number: as in `decode_round`.
    """
    ambiguous = _ambiguous(chunk, objective)
    outputs = ALL if objective.prompt_losses or bool(ambiguous.any()) else SINGLE
    decoded = decode(student, embedding, chunk, outputs)
    losses: Losses = {}
    prompts = chunk.labels.shape[1]
    if objective.truth_losses:
        truth, valid = chunk.masks.flatten(0, 1), chunk.valid.repeat_interleave(prompts, dim=0)
        pixels = None
        if objective.mask_loss_points is None:
            truth, valid = truth.to(student.dtype), valid.to(student.dtype)
        else:
            drawn_for = chunk.masks, chunk.size, chunk.seed, first, number
            pixels = random_pixels(*drawn_for, objective.mask_loss_points).flatten(0, 1)
        losses |= truth_losses(decoded, truth, valid, ambiguous, objective.truth_losses, pixels)
    if objective.prompt_losses:
        valid = chunk.valid[:, ::4, ::4].repeat_interleave(prompts, dim=0).to(student.dtype)
        losses |= prompt_losses(decoded, teachers, valid, objective.prompt_losses)
    return losses, most_confident(decoded, ambiguous)


def decode(student: Sam, embedding: Tensor, batch: Sample, outputs: range = SINGLE) -> Decoded:
    """Decode a batch's prompts, B*P of them, by the student."""
    return student.decode_all(embedding, **_prompts(batch, student.dtype), outputs=outputs)


def _prompts(batch: Sample, dtype: torch.dtype) -> dict[str, Any]:
    """Return the prompts of a batch as arguments of `Sam.decode_all`."""
    labels = batch.labels.flatten(0, 1)
    with_masks = batch.mask_prompts.numel() > 0
    return {
        "points": batch.points.flatten(0, 1).to(dtype),
        "labels": labels,
        "masks": batch.mask_prompts.flatten(0, 1).to(dtype) if with_masks else None,
        "has_mask": batch.has_mask.flatten(0, 1) if with_masks else None,
        "absent_points": labels.shape[1] > 2 and bool((labels == ABSENT).any()),
    }


def _chunks(batch: Sample, decoder_chunk_size: int) -> Iterator[Sample]:
    """Yield the batch in chunks of its prompts, with equally many prompts of each image."""
    images, prompts = batch.labels.shape[:2]
    size = max(1, decoder_chunk_size // images)
    fields = ["masks", "points", "labels"]
    if batch.mask_prompts.numel():
        fields += ["mask_prompts", "has_mask"]
    for start in range(0, prompts, size):
        yield batch._replace(
            **{name: getattr(batch, name)[:, start : start + size] for name in fields}
        )


def _click_inputs(
    low_res_logits: Tensor,
    chunk: Sample,
    objective: Objective,
    teachers: Sequence[tuple[float, Decoded]],
    img_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return low_res_logits, predicted and target of a `Round`."""
    shape, size = chunk.labels.shape[:2], (img_size, img_size)
    predicted = (upscale_logits(low_res_logits, img_size) > 0).view(*shape, *size)
    target = chunk.masks
    known = chunk.labelled & (objective.click_target == "truth")
    if teachers and not bool(known.all()):
        best = most_confident(teachers[0][1], _ambiguous(chunk, objective))
        by_teacher = (upscale_logits(best, img_size) > 0).view(*shape, *size)
        target = torch.where(known.view(-1, 1, 1, 1), target, by_teacher)
    return low_res_logits.unflatten(0, shape), predicted, target


def most_confident(decoded: Decoded, ambiguous: Tensor) -> Tensor:
    """Select the mask that a person would continue with, low_res_logits (N, 1, S/4, S/4).

    For an ambiguous prompt, it is that of three with the highest predicted IoU. No gradient.
    """
    masks = torch.zeros(len(ambiguous), dtype=torch.long, device=ambiguous.device)
    if decoded.low_res_logits.shape[1] > 1:
        masks = torch.where(ambiguous, 1 + decoded.predicted_iou[:, 1:].argmax(1), masks)
    rows = torch.arange(len(masks), device=masks.device)
    return decoded.low_res_logits[rows, masks, None].detach()


# 3. Losses to the truth
#
# A single point may mean a part, an object, or a group of objects. As in SAM (Kirillov et al.,
# arXiv:2304.02643, section 3), only the best of its three masks is trained on it. The one mask for
# clear prompts is trained on single points, too, with the same weight, for uses with one mask.


def _ambiguous(chunk: Sample, objective: Objective) -> Tensor:
    """Return which prompts get three masks, (B*P,) bool."""
    labels = chunk.labels.flatten(0, 1)
    has_mask = chunk.has_mask.flatten(0, 1) if chunk.mask_prompts.numel() else None
    return is_ambiguous(labels, has_mask) & objective.multimask


def is_ambiguous(labels: Tensor, has_mask: Tensor | None) -> Tensor:
    """Return which prompts are one foreground point and nothing else, (N,) bool.

    labels: (N, T); has_mask: (N,) bool, or None if no prompt has a mask.
    """
    lone = ((labels >= 0).sum(1) == 1) & (labels == FOREGROUND).any(1)
    return lone if has_mask is None else lone & ~has_mask


def upscale_logits(low_res_logits: Tensor, img_size: int) -> Tensor:
    """Return logits (N, M, S, S) of low_res_logits (N, M, S/4, S/4), in the model frame."""
    size = (img_size, img_size)
    return F.interpolate(full_precision(low_res_logits), size, mode="bilinear")


def truth_losses(
    decoded: Decoded,
    truth: Tensor,
    valid: Tensor,
    ambiguous: Tensor,
    weights: Mapping[str, float],
    pixels: Tensor | None = None,
) -> Losses:
    """Return unweighted losses of each prompt, (N,), by name; and `train_iou`, of the one mask.

    A loss of weight 0 has no gradient.

    decoded: the one mask, or all four if any prompt is `ambiguous` (N,). The losses of an ambiguous
        prompt are the means over the one mask and the best of three; the predicted IoU of all
        three masks is trained.
    truth, valid: (N, S, S), 0 or 1.
    pixels: `random_pixels` of each prompt, some of which are the points at which losses of masks
        are computed; None: all pixels. The IoU is always that of whole masks, and so is the choice
        of the best; neither has a gradient.
    """
    low_res_logits = decoded.low_res_logits[:, :1]
    if pixels is None:
        logits = upscale_logits(low_res_logits, truth.shape[1])[:, 0]
        losses = _mask_losses(logits, truth, valid, weights)
        measured = measured_iou(logits, truth, valid)
    else:
        losses = losses_at_points(low_res_logits[:, 0], truth, valid, weights, pixels)
        measured = _ranking(low_res_logits, truth, valid, [])[1][:, 0]
    losses |= _iou_losses(decoded.predicted_iou[:, 0], measured, weights)
    rows = ambiguous.nonzero().squeeze(1)
    if len(rows) and decoded.low_res_logits.shape[1] > 1:
        three = Decoded(*(field[rows, 1:] for field in decoded))
        of_rows = None if pixels is None else pixels[rows]
        best = _best_of_three(three, truth[rows], valid[rows], weights, of_rows)
        for name, loss in best.items():
            losses[name] = losses[name].index_add(0, rows, (loss - losses[name][rows]) / 2)
    return losses | {"train_iou": measured}


def _best_of_three(
    decoded: Decoded,
    truth: Tensor,
    valid: Tensor,
    weights: Mapping[str, float],
    pixels: Tensor | None,
) -> Losses:
    """Return losses (N,) of the best of three masks; `iou` is the mean of all three."""
    terms = [(w, FUNCTIONS[n]) for n, w in weights.items() if n in {"focal", "dice"} and w]
    ranking, measured = _ranking(
        decoded.low_res_logits, truth, valid, terms or [(1.0, FUNCTIONS["dice"])]
    )
    best = ranking.argmin(1)
    chosen = decoded.low_res_logits[torch.arange(len(best), device=best.device), best]
    if pixels is None:
        logits = upscale_logits(chosen[:, None], truth.shape[1])[:, 0]
        losses = _mask_losses(logits, truth, valid, weights)
    else:
        losses = losses_at_points(chosen, truth, valid, weights, pixels)
    errors = _iou_losses(decoded.predicted_iou, measured, weights)
    return losses | {name: error.mean(1) for name, error in errors.items()}


def _mask_losses(
    logits: Tensor, truth: Tensor, valid: Tensor, weights: Mapping[str, float]
) -> Losses:
    """Return losses (N,) of masks (N, S, S); those of weight 0 are metrics, without a gradient."""
    losses: Losses = {}
    for name, weight in weights.items():
        if LOSSES[name] == "mask":
            with torch.set_grad_enabled(weight > 0 and torch.is_grad_enabled()):
                losses[name] = FUNCTIONS[name](logits, truth, valid)
    return losses


def _iou_losses(predicted: Tensor, measured: Tensor, weights: Mapping[str, float]) -> Losses:
    """Return losses of the predicted IoU, of the shape of both; as in `_mask_losses`."""
    return {
        name: FUNCTIONS[name](full_precision(predicted if weight else predicted.detach()), measured)
        for name, weight in weights.items()
        if LOSSES[name] == "iou"
    }


@torch.no_grad()
def _ranking(
    low_res_logits: Tensor,
    truth: Tensor,
    valid: Tensor,
    terms: Sequence[tuple[float, Callable[..., Tensor]]],
) -> tuple[Tensor, Tensor]:
    """Return the sum of weighted losses, and measured IoU, each (N, M), of M masks a prompt.

    low_res_logits: (N, M, S/4, S/4). terms: weights and losses; none for the IoU alone.
    Masks are compared at the resolution of the truth: at a lower one, a small object is as large as
    one of twice its size. Only a few are compared at a time, so that they need little memory
    besides the tensors that are kept for the gradient.
    """
    dtype = full_precision(low_res_logits).dtype
    losses, ious = (truth.new_empty(low_res_logits.shape[:2], dtype=dtype) for _ in range(2))
    for start in range(0, len(truth), _MASKS_AT_ONCE):
        rows = slice(start, start + _MASKS_AT_ONCE)
        target, counted = truth[rows].to(dtype), valid[rows].to(dtype)
        for k, mask in enumerate(low_res_logits[rows].unbind(1)):
            compared = upscale_logits(mask[:, None], truth.shape[1])[:, 0], target, counted
            losses[rows, k] = sum(weight * loss(*compared) for weight, loss in terms)
            ious[rows, k] = measured_iou(*compared)
    return losses, ious


# 4. Losses to the teachers


def feature_losses(
    projections: FeatureProjections,
    embedding: Tensor,
    teacher: Mapping[str, Tensor],
    places: Tensor,
    names: Iterable[str],
) -> Losses:
    """Return losses `distill_<name>` of each image, unweighted, the mean over levels; (B,).

    embedding: the student's (B, C, S/16, S/16).
    teacher: features (B, C', S/16, S/16) of each level, by its name.
    places: (B, S/16, S/16), the weight of each place, 0 for padding.
    Raises ConfigError for shapes that differ after the projection.
    """
    losses = {name: full_precision(embedding.new_zeros(len(embedding))) for name in names}
    for level, project in projections.items():
        student = full_precision(project(embedding))
        target = teacher[level].to(student.dtype)
        if student.shape != target.shape:
            raise ConfigError(
                f"distillation: the teacher's features ({level}) are {tuple(target.shape)}, "
                f"the student's are {tuple(student.shape)}; run `extract` again with this "
                "img_size, or choose a teacher of the same embed_dim"
            )
        for name, mean in losses.items():
            loss = FUNCTIONS[name](student, target, places.to(student.dtype))
            losses[name] = mean + projections.shares[level] * loss
    return {f"distill_{name}": loss for name, loss in losses.items()}


def image_places(size: Tensor, side: int) -> Tensor:
    """Return the share of each place of an image embedding that is not padding, (B, side, side).

    size: (B, 2), sizes of images in the model frame, as in `Sample`.
    """
    starts = _STRIDE * torch.arange(side, device=size.device)
    height, width = ((size[..., None] - starts).clamp(0, _STRIDE) / _STRIDE).unbind(1)
    return height[:, :, None] * width[:, None]


def prompt_losses(
    student: Decoded, teachers: Sequence[tuple[float, Decoded]], valid: Tensor, names: Iterable[str]
) -> Losses:
    """Return losses `distill_<name>` of each prompt, unweighted, the mean over teachers; (N,).

    Student and teacher decode the same prompts. The teacher's light decoder runs on its stored
    embeddings, so that training needs no large encoder, as in EdgeSAM (Zhou et al.,
    arXiv:2312.06660, section 3.2).

    teachers: share and masks of each. valid: (N, S/4, S/4), 0 or 1.
    """
    return {
        f"distill_{name}": torch.stack(
            [share * FUNCTIONS[name](student, t, valid[:, None]) for share, t in teachers]
        ).sum(0)
        for name in names
    }


# 5. Total


def total_loss(losses: Losses, objective: Objective, per_labelled: Tensor) -> Losses:
    """Return `loss`, (B,), and `distillation` if there is a loss to a teacher.

    per_labelled: images per labelled image in the step, (B,).
    """
    weights = {name: weight for name, weight in objective.truth_losses.items() if weight}
    terms = [weight * losses[name] for name, weight in weights.items()]
    terms = [per_labelled.to(term.dtype) * term for term in terms]
    to_teachers = objective.feature_losses | objective.prompt_losses
    if not to_teachers:
        return {"loss": torch.stack(terms).sum(0)}
    parts = [weight * losses[f"distill_{name}"] for name, weight in to_teachers.items()]
    distillation = torch.stack(parts).sum(0)
    terms.append(objective.lambda_coef * distillation)
    return {"distillation": distillation, "loss": torch.stack(terms).sum(0)}
