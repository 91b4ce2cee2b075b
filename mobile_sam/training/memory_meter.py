"""Meter of the memory of tensors; with fake tensors, neither the memory nor a GPU is needed.

    with torch.device("meta"):
        model = build_sam_model("vit_t", 1024)
    with FakeTensorMode(allow_non_fake_inputs=True), MemoryMeter() as meter:
        model.to_empty(device="cpu")
        ...  # make inputs, and run a step
    print(meter.peak)

Without a GPU, autograd refuses fake tensors on `cuda`. A training step is measured with fake
tensors on `cpu` or `meta`, which have the same shapes and types.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATEN = torch.ops.aten


class MemoryMeter(TorchDispatchMode):
    """Bytes of the storages that are alive: `bytes` now, `peak` the largest number so far.

    Tensors made before the meter began are counted when an operation returns them, or by `count`.
    Memory that a kernel allocates for intermediate results is not counted.
    Fake tensors have no values: truth values are taken as true and elements as not zero, which is
    the case that needs most memory.
    device: only storages on devices of this type are counted; None counts all.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = device
        self.bytes = self.peak = 0
        self._alive: dict[int, int] = {}  # bytes by the identity of a storage

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that exist already."""
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        first = args[0] if args else None
        if isinstance(first, FakeTensor) and func is _ATEN._local_scalar_dense.default:
            return True if first.dtype == torch.bool else 1
        if isinstance(first, FakeTensor) and func is _ATEN.nonzero.default:
            result = first.new_empty((first.numel(), first.dim()), dtype=torch.int64)
        else:
            result = func(*args, **(kwargs or {}))
        self.count(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def _add(self, tensor: Tensor) -> None:
        if self.device not in (None, tensor.device.type):
            return
        storage = tensor.untyped_storage()
        if id(storage) not in self._alive:
            self._alive[id(storage)] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._remove, id(storage)).atexit = False

    def _remove(self, number: int) -> None:
        self.bytes -= self._alive.pop(number)
