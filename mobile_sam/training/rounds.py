"""One round of prompts: the decoders' answers, and what truth and teachers say to them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mobile_sam.data.dataset import Sample
from mobile_sam.models.mask_decoder import ALL, SINGLE, Decoded
from mobile_sam.models.prompt_encoder import ABSENT
from mobile_sam.models.sam import Sam
from mobile_sam.training.answers import TeacherDecoder, answer_losses
from mobile_sam.training.objective import Objective
from mobile_sam.training.supervision import (
    Losses,
    is_ambiguous,
    most_confident,
    supervised_losses,
    upscaled,
)


class Answers(NamedTuple):
    """What a round gave. losses: (B, P) by name, unweighted.

    The rest is for the click that follows, and empty where none does:
    low_res_logits: (B, P, 1, S/4, S/4), of the masks that a person would go on with; no gradient.
    predicted: (B, P, S, S) bool, these masks. target: (B, P, S, S) bool, what clicks correct to.
    """

    losses: Losses
    low_res_logits: Tensor = torch.empty(0)
    predicted: Tensor = torch.empty(0)
    target: Tensor = torch.empty(0)


def answer_prompts(
    student: Sam,
    decoders: Sequence[TeacherDecoder],
    goal: Objective,
    embedding: Tensor,
    batch: Sample,
    last: bool = False,
) -> Answers:
    """The answers to a batch's prompts on its embeddings (B, C, S/16, S/16).

    last: whether no click follows.
    More prompts than `goal.prompts_per_pass` are decoded in parts, each of which is decoded again
    for its gradient: then memory holds the intermediate results of one part.
    """
    parts = list(_parts(batch, goal.prompts_per_pass))
    found: list[Losses] = []
    for_clicks = []
    for part in parts:
        teachers = [(d.share, _decode_by(d, part)) for d in decoders]
        arguments = (student, goal, embedding, part, teachers)
        if len(parts) > 1 and torch.is_grad_enabled():
            losses, low_res_logits = checkpoint(
                *(_answer, *arguments), use_reentrant=False, preserve_rng_state=False
            )
        else:
            losses, low_res_logits = _answer(*arguments)
        found.append({name: loss.view(part.labels.shape[:2]) for name, loss in losses.items()})
        if not last:
            for_clicks.append(_for_clicks(low_res_logits, part, goal, teachers, student.img_size))
    return Answers(
        {name: torch.cat([losses[name] for losses in found], dim=1) for name in found[0]},
        *(torch.cat(tensors, dim=1) for tensors in zip(*for_clicks, strict=True)),
    )


def _answer(
    student: Sam,
    goal: Objective,
    embedding: Tensor,
    part: Sample,
    teachers: Sequence[tuple[float, Decoded]],
) -> tuple[Losses, Tensor]:
    """Losses (B*P,) by name, and low_res_logits (B*P, 1, S/4, S/4) to go on with."""
    ambiguous = _ambiguous(part, goal)
    outputs = ALL if goal.answers or bool(ambiguous.any()) else SINGLE
    decoded = decode(student, embedding, part, outputs)
    losses: Losses = {}
    prompts = part.labels.shape[1]
    if goal.supervised:
        truth = part.masks.flatten(0, 1).to(student.dtype)
        valid = part.valid.repeat_interleave(prompts, dim=0).to(student.dtype)
        losses |= supervised_losses(decoded, truth, valid, ambiguous, goal.supervised)
    if goal.answers:
        small = part.valid[:, ::4, ::4].repeat_interleave(prompts, dim=0).to(student.dtype)
        compared = answer_losses(decoded, teachers, small, goal.answers)
        losses |= {f"distill_{name}": loss for name, loss in compared.items()}
    return losses, most_confident(decoded, ambiguous)


def _for_clicks(
    low_res_logits: Tensor,
    part: Sample,
    goal: Objective,
    teachers: Sequence[tuple[float, Decoded]],
    img_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """low_res_logits, predicted and target of `Answers`."""
    shape, size = part.labels.shape[:2], (img_size, img_size)
    predicted = (upscaled(low_res_logits, img_size) > 0).view(*shape, *size)
    target = part.masks
    if goal.clicks == "teacher":
        best = most_confident(teachers[0][1], _ambiguous(part, goal))
        target = (upscaled(best, img_size) > 0).view(*shape, *size)
    return low_res_logits.unflatten(0, shape), predicted, target


def _parts(batch: Sample, prompts_per_pass: int) -> Iterator[Sample]:
    """The batch with some of its prompts at a time, equally many of each image."""
    images, prompts = batch.labels.shape[:2]
    size = max(1, prompts_per_pass // images)
    fields = ["masks", "points", "labels"]
    if batch.mask_prompts.numel():
        fields += ["mask_prompts", "has_mask"]
    for start in range(0, prompts, size):
        yield batch._replace(
            **{name: getattr(batch, name)[:, start : start + size] for name in fields}
        )


def _ambiguous(part: Sample, goal: Objective) -> Tensor:
    """(B*P,) bool, the prompts that get three masks."""
    labels = part.labels.flatten(0, 1)
    has_mask = part.has_mask.flatten(0, 1) if part.mask_prompts.numel() else None
    return is_ambiguous(labels, has_mask) & goal.multimask


def _decode_by(decoder: TeacherDecoder, part: Sample) -> Decoded:
    return decoder(part.teacher[decoder.name], **_prompts(part, decoder.dtype), outputs=ALL)


def embed(student: Sam, batch: Sample) -> Tensor:
    """Embeddings (B, C, S/16, S/16) of a batch's images, or those that it comes with."""
    if batch.embedding.numel():
        return batch.embedding.to(student.dtype)
    return student.image_encoder(batch.image.to(student.dtype))


def decode(student: Sam, embedding: Tensor, batch: Sample, outputs: range = SINGLE) -> Decoded:
    """The student's answers to a batch's prompts, B*P of them."""
    return student.decode_all(embedding, **_prompts(batch, student.dtype), outputs=outputs)


def _prompts(batch: Sample, dtype: torch.dtype) -> dict[str, Any]:
    """The prompts of a batch as `Sam.decode_all` takes them."""
    labels = batch.labels.flatten(0, 1)
    with_masks = batch.mask_prompts.numel() > 0
    return {
        "points": batch.points.flatten(0, 1).to(dtype),
        "labels": labels,
        "masks": batch.mask_prompts.flatten(0, 1).to(dtype) if with_masks else None,
        "has_mask": batch.has_mask.flatten(0, 1) if with_masks else None,
        "absent_points": labels.shape[1] > 2 and bool((labels == ABSENT).any()),
    }
