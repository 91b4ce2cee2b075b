"""A fake GPU: tensors that have a shape, a type and a device, and no values.

An operation on tensors of different devices, or of types that it does not take, fails as it does on
a GPU. Numbers that the code asks for are ones, truth values are true, and all elements of a mask
count; arrays hold ones.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mobile_sam.training.memory_meter import MemoryMeter
from mobile_sam.training.step_memory import ZeroRates

CUDA = torch.device("cuda:0")
TYPES = [None, torch.bfloat16, torch.float16]


# On a GPU these want tensors of one type; PyTorch's fakes do not say so of all of them.
_ATEN = torch.ops.aten
ONE_TYPE = {
    *(_ATEN.mm.default, _ATEN.addmm.default, _ATEN.bmm.default, _ATEN.baddbmm.default),
    *(_ATEN.linear.default, _ATEN.convolution.default),
    *(_ATEN.index_put.default, _ATEN.index_put_.default),
}


class LikeOnGpu(TorchDispatchMode):
    """Refuses types that differ; an index that is a mask takes every element."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in ONE_TYPE:
            given = {arg.dtype for arg in args if isinstance(arg, Tensor)}
            if len(given) > 1:
                raise RuntimeError(f"{func}: its tensors differ in dtype: {given}")
        if func is _ATEN.index.Tensor:
            values, places = args
            args = values, [part for place in places for part in as_numbers(place)]
        return func(*args, **(kwargs or {}))


def as_numbers(place: Tensor | None) -> list[Tensor | None]:
    """An index as it is, or a mask as the indices of all its elements, one for each dimension."""
    if place is None or place.dtype != torch.bool:
        return [place]
    return list(place.nonzero().unbind(1))


def array(tensor: Tensor) -> NDArray[Any]:
    """Ones in place of `Tensor.numpy`, which refuses tensors on a GPU and bfloat16 alike."""
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert {tensor.device} device type tensor to numpy")
    return np.ones(tensor.shape, str(tensor.dtype).removeprefix("torch."))


@contextmanager
def fake_cuda() -> Iterator[None]:
    """All tensors that are made are fake, and there is a GPU for them."""
    with pytest.MonkeyPatch.context() as patch:
        # Autocast asks for a GPU before it believes that there is one.
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr("torch.cuda.is_bf16_supported", lambda *args, **kwargs: True)
        # Parts that are computed again are so once in a backward pass, by its number.
        patch.setattr("torch._C._current_graph_task_id", lambda: 0)
        patch.setattr(FakeTensor, "numpy", array, raising=False)
        with FakeTensorMode(allow_non_fake_inputs=True), MemoryMeter(), LikeOnGpu():
            yield


def on_cuda(make: Callable[[], Any]) -> Any:
    """What `make` makes, on the fake GPU: a conversion would swap parameters, and fakes refuse."""
    with CUDA, ZeroRates():
        return make()


def cast(dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast on the fake GPU, or none."""
    return nullcontext() if dtype is None else torch.autocast("cuda", dtype)


def devices(tensors: Iterator[Tensor]) -> set[torch.device]:
    """Where the tensors are."""
    return {tensor.device for tensor in tensors}
