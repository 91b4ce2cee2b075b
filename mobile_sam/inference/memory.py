"""How many points are asked for at a time."""

import torch

from mobile_sam.models.sam import Sam

# What few prompts make stays in the cache of a CPU: of 64, each takes half as long again.
POINTS_ON_CPU = 4
# A GPU has nothing to gain from more.
_MOST_POINTS = 1024
# The decoder held 5 maps of the embedding's size for each point at its worst, in 32 bits on a CPU.
_MAPS_OF_POINT = 8


def points_at_once(model: Sam, wanted: int | None) -> int:
    """Points that `model` decodes at a time: `wanted`, or None for as many as memory allows.

    On a CPU at most POINTS_ON_CPU.
    """
    if model.device.type == "cpu":
        return min(wanted or POINTS_ON_CPU, POINTS_ON_CPU)
    if wanted is not None:
        return wanted
    free, _ = torch.cuda.mem_get_info(model.device)
    kept = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return max(1, min(_MOST_POINTS, (free + kept) // 2 // _bytes_of_point(model)))


def _bytes_of_point(model: Sam) -> int:
    cells, channels = model.prompt_encoder.grid_size**2, model.prompt_encoder.embed_dim
    return _MAPS_OF_POINT * cells * channels * model.dtype.itemsize
