"""Bit-for-bit comparison of samples, state dicts and nested results."""

from typing import Any

import torch

from mobile_sam.data.sampling.dataset import Sample


def same_samples(first: Sample, second: Sample) -> bool:
    """Whether two samples are equal, bit for bit."""
    plain, other = (sample._replace(teacher={})._asdict() for sample in (first, second))
    tensors = all(torch.equal(plain[name], other[name]) for name in plain if name != "teacher")
    return tensors and equal_states(first.teacher, second.teacher)


def equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def equal(first: Any, second: Any) -> bool:
    """Whether two nested values are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        pairs = zip(first, second, strict=True)
        return len(first) == len(second) and all(equal(a, b) for a, b in pairs)
    return bool(first == second)
