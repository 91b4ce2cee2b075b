"""Validation after an epoch: IoU in the model frame on a sample of the validation images.

Its memory is bounded like that of training: an image is encoded at a time, and `decoder_chunk_size`
of its prompts are decoded and measured at a time. All ranks take part, and find the same figures
as one rank, bit for bit: what is computed together does not depend on their number.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from mobile_sam.config.sections import SelectionMetric
from mobile_sam.data.sampling.click_simulation import Click, clicks_prompt, next_click
from mobile_sam.data.sampling.dataset import Sample, ValidationSet, collate
from mobile_sam.data.sampling.prompts import VALIDATION_PROMPTS
from mobile_sam.models.mask_decoder import ALL, SINGLE
from mobile_sam.models.sam import Sam
from mobile_sam.system.process import loader_options
from mobile_sam.training.losses import measured_iou
from mobile_sam.training.step import decode, encode, most_confident, upscale_logits

CLICKS = 3  # those of a session whose last mask counts, the first among them


@torch.no_grad()
def validation_iou(
    student: Sam,
    dataset: ValidationSet,
    fabric: Fabric,
    decoder_chunk_size: int,
    with_clicks: bool = False,
    num_workers: int = 0,
    stops: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return the mean over images of the mean IoU of their segments, by prompt; equal on all ranks.

    student: in eval mode; its buffers become those of the first rank.
    with_clicks: whether IoU after corrective clicks is measured too.
    num_workers: processes that read images.
    stops: is called between images by all ranks at once, and raises when they shall end.
    """
    rank, ranks = fabric.global_rank, fabric.world_size
    _share_buffers(fabric, student)
    kinds = [*VALIDATION_PROMPTS, *(["clicks"] if with_clicks else [])]
    found = torch.zeros(len(kinds), len(dataset), dtype=torch.float64)
    own = range(rank, len(dataset), ranks)
    loader = DataLoader(
        Subset(dataset, own), collate_fn=collate, **loader_options(min(num_workers, len(own)))
    )
    samples = iter(loader)
    for first in range(0, len(dataset), ranks):
        stops()
        if first + rank < len(dataset):
            image = next(samples)
            found[:, first + rank] = image_iou(
                student, image, fabric.device, decoder_chunk_size, with_clicks
            )
    if ranks > 1:
        found = found.to(fabric.device)
        fabric.all_reduce(found, reduce_op="sum")  # each number is one rank's; the others have 0
    return {
        kind: math.fsum(values) / len(values)
        for kind, values in zip(kinds, found.tolist(), strict=True)
    }


def image_iou(
    student: Sam,
    image: Sample,
    device: torch.device,
    decoder_chunk_size: int,
    with_clicks: bool = False,
) -> Tensor:
    """Return the mean IoU of the segments of an image, by prompt; (K,) or (K + 1,), float64.

    image: a batch of one sample of `ValidationSet`, on the CPU. What is on `device` at a time is
    the image, and `decoder_chunk_size` of its segments.
    """
    embedding = encode(student, image._replace(masks=torch.empty(0)).to(device))
    ious: dict[str, list[Tensor]] = {}
    for kind, some in _parts(image, decoder_chunk_size):
        part = some.to(device)
        ambiguous = with_clicks and kind == "point"
        decoded = decode(student, embedding, part, ALL if ambiguous else SINGLE)
        ious.setdefault(kind, []).append(_iou(decoded.low_res_logits[:, :1], part))
        if ambiguous:
            every = torch.ones(len(decoded.predicted_iou), dtype=torch.bool, device=device)
            low_res_logits = most_confident(decoded, every)
            ious.setdefault("clicks", []).append(
                _iou(_clicked(student, embedding, part, low_res_logits), part)
            )
    return torch.stack([torch.cat(of_kind).mean() for of_kind in ious.values()])


def selection_iou(ious: dict[str, float], metric: SelectionMetric) -> float:
    """Return the IoU by which epochs are compared."""
    if metric == "mean":
        return float(np.mean([ious[kind] for kind in VALIDATION_PROMPTS]))
    return ious[metric]


def _parts(image: Sample, decoder_chunk_size: int) -> Iterator[tuple[str, Sample]]:
    """Yield some segments of an image at a time, by each kind of prompt, without the image."""
    nothing = torch.empty(0)
    points, labels = (
        prompts.unflatten(1, (len(VALIDATION_PROMPTS), -1))
        for prompts in (image.points, image.labels)
    )
    for number, kind in enumerate(VALIDATION_PROMPTS):
        for start in range(0, image.masks.shape[1], decoder_chunk_size):
            some = slice(start, start + decoder_chunk_size)
            yield (
                kind,
                image._replace(
                    image=nothing,
                    embedding=nothing,
                    masks=image.masks[:, some],
                    points=points[:, number, some],
                    labels=labels[:, number, some],
                ),
            )


def _iou(low_res_logits: Tensor, part: Sample) -> Tensor:
    """Return the IoU (N,) of low_res_logits (N, 1, S/4, S/4), float64, on the CPU."""
    logits = upscale_logits(low_res_logits, part.masks.shape[-1])[:, 0]
    return measured_iou(logits, part.masks[0], part.valid).double().cpu()


def _clicked(student: Sam, embedding: Tensor, part: Sample, low_res_logits: Tensor) -> Tensor:
    """Return low_res_logits (N, 1, S/4, S/4) after all clicks of the protocol `clicks`.

    part: N segments, each with its first click; low_res_logits: the answers to these.
    """
    valid = part.valid[0].cpu().numpy()
    truths = part.masks[0].cpu().numpy() & valid
    places = part.points[0, :, 0].long().tolist()
    clicks: list[list[Click]] = [[(x, y, True)] for x, y in places]
    for _ in range(CLICKS - 1):
        logits = upscale_logits(low_res_logits, part.masks.shape[-1])[:, 0]
        predictions = (logits > 0).cpu().numpy() & valid
        with ThreadPoolExecutor() as pool:  # OpenCV lets go of the interpreter's lock
            found = list(pool.map(next_click, predictions, truths, clicks))
        clicks = [[*before, click] for before, click in zip(clicks, found, strict=True)]
        prompts = [clicks_prompt(of_segment) for of_segment in clicks]
        points = torch.from_numpy(np.stack([prompt.points for prompt in prompts]))
        labels = torch.from_numpy(np.stack([prompt.labels for prompt in prompts]))
        part = part._replace(
            points=points[None].to(embedding.device),
            labels=labels[None].to(embedding.device),
            mask_prompts=low_res_logits[None],
            has_mask=torch.ones(1, len(clicks), dtype=torch.bool, device=embedding.device),
        )
        low_res_logits = decode(student, embedding, part).low_res_logits
    return low_res_logits


def _share_buffers(fabric: Fabric, model: nn.Module) -> None:
    """Copy the buffers of the first rank to all ranks: those of BatchNorm differ."""
    if fabric.world_size > 1:
        own = dict(model.named_buffers())
        first = fabric.broadcast({name: buffer.cpu() for name, buffer in own.items()})
        for name, buffer in own.items():
            buffer.copy_(first[name])
