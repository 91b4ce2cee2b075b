"""Validation after an epoch: IoU in the model frame on a sample of the validation images.

Memory is bounded as in training: images are encoded one at a time, and `decoder_chunk_size` of an
image's prompts are decoded and measured at a time. All ranks take part. Their results equal those
of one rank bit for bit, because batches do not depend on the number of ranks.
"""

import math
from collections.abc import Callable, Iterator, Mapping
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

CLICKS = 3  # of a session, including the first; only its last mask is measured


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
    with_clicks: also measures IoU after corrective clicks.
    num_workers: number of processes that read images.
    stops: called between images by all ranks at once; raises if they must end.
    """
    rank, ranks = fabric.global_rank, fabric.world_size
    _share_buffers(fabric, student)
    kinds = [*VALIDATION_PROMPTS, *(["clicks"] if with_clicks else [])]
    ious = torch.zeros(len(kinds), len(dataset), dtype=torch.float64)
    positions = range(rank, len(dataset), ranks)
    loader = DataLoader(
        Subset(dataset, positions),
        collate_fn=collate,
        **loader_options(min(num_workers, len(positions))),
    )
    samples = iter(loader)
    for first in range(0, len(dataset), ranks):
        stops()
        if first + rank < len(dataset):
            image = next(samples)
            ious[:, first + rank] = image_iou(
                student, image, fabric.device, decoder_chunk_size, with_clicks
            )
    if ranks > 1:
        ious = ious.to(fabric.device)
        fabric.all_reduce(ious, reduce_op="sum")  # one rank has the value, the others have 0
    return {
        kind: math.fsum(values) / len(values)
        for kind, values in zip(kinds, ious.tolist(), strict=True)
    }


def image_iou(
    student: Sam,
    image: Sample,
    device: torch.device,
    decoder_chunk_size: int,
    with_clicks: bool = False,
) -> Tensor:
    """Return the mean IoU of the segments of an image, by prompt; (K,) or (K + 1,), float64.

    image: a batch of one sample of `ValidationSet`, on the CPU. `device` holds the image and
    `decoder_chunk_size` of its segments at a time.
    """
    embedding = encode(student, image._replace(masks=torch.empty(0)).to(device))
    ious: dict[str, list[Tensor]] = {}
    for kind, chunk in _chunks(image, decoder_chunk_size):
        part = chunk.to(device)
        ambiguous = with_clicks and kind == "point"
        decoded = decode(student, embedding, part, ALL if ambiguous else SINGLE)
        ious.setdefault(kind, []).append(_iou(decoded.low_res_logits[:, :1], part))
        if ambiguous:
            all_prompts = torch.ones(len(decoded.predicted_iou), dtype=torch.bool, device=device)
            low_res_logits = most_confident(decoded, all_prompts)
            ious.setdefault("clicks", []).append(
                _iou(_after_clicks(student, embedding, part, low_res_logits), part)
            )
    return torch.stack([torch.cat(values).mean() for values in ious.values()])


def selection_iou(row: Mapping[str, float], metric: SelectionMetric) -> float:
    """Return the IoU by which epochs are compared, from the metrics of an epoch."""
    kinds = VALIDATION_PROMPTS if metric == "mean" else (metric,)
    return float(np.mean([row[f"val_{kind}_iou"] for kind in kinds]))


def _chunks(image: Sample, decoder_chunk_size: int) -> Iterator[tuple[str, Sample]]:
    """Yield chunks of an image's segments, for each kind of prompt, without the pixels."""
    nothing = torch.empty(0)
    points, labels = (
        prompts.unflatten(1, (len(VALIDATION_PROMPTS), -1))
        for prompts in (image.points, image.labels)
    )
    for number, kind in enumerate(VALIDATION_PROMPTS):
        for start in range(0, image.masks.shape[1], decoder_chunk_size):
            rows = slice(start, start + decoder_chunk_size)
            yield (
                kind,
                image._replace(
                    image=nothing,
                    embedding=nothing,
                    masks=image.masks[:, rows],
                    points=points[:, number, rows],
                    labels=labels[:, number, rows],
                ),
            )


def _iou(low_res_logits: Tensor, part: Sample) -> Tensor:
    """Return the IoU (N,) of low_res_logits (N, 1, S/4, S/4), float64, on the CPU."""
    logits = upscale_logits(low_res_logits, part.masks.shape[-1])[:, 0]
    return measured_iou(logits, part.masks[0], part.valid).double().cpu()


def _after_clicks(student: Sam, embedding: Tensor, part: Sample, low_res_logits: Tensor) -> Tensor:
    """Return low_res_logits (N, 1, S/4, S/4) after all clicks of the protocol `clicks`.

    part: N segments, each with its first click; low_res_logits: predictions for these clicks.
    """
    valid = part.valid[0].cpu().numpy()
    truths = part.masks[0].cpu().numpy() & valid
    places = part.points[0, :, 0].long().tolist()
    clicks: list[list[Click]] = [[(x, y, True)] for x, y in places]
    for _ in range(CLICKS - 1):
        logits = upscale_logits(low_res_logits, part.masks.shape[-1])[:, 0]
        predictions = (logits > 0).cpu().numpy() & valid
        with ThreadPoolExecutor() as pool:  # OpenCV releases the GIL
            further = list(pool.map(next_click, predictions, truths, clicks))
        clicks = [[*before, click] for before, click in zip(clicks, further, strict=True)]
        prompts = [clicks_prompt(session) for session in clicks]
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
    """Copy the buffers of the first rank to all ranks, because BatchNorm statistics differ."""
    if fabric.world_size > 1:
        buffers = dict(model.named_buffers())
        first = fabric.broadcast({name: buffer.cpu() for name, buffer in buffers.items()})
        for name, buffer in buffers.items():
            buffer.copy_(first[name])
