"""On a CPU, gradients are summed in a fixed order and freed memory is kept."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.training.cpu import same_order
from mobile_sam.training.run import train_run
from mobile_sam.training.step import TrainingModule

ACCOUNT = """
import ctypes, sys, torch
from mobile_sam.training.cpu import keep_freed_memory

class Account(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Account
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = mallinfo2().hblkhd
tensor = torch.ones(64 * 2**20)  # 256 MiB
mapped = mallinfo2().hblkhd - before
del tensor
print(mapped // 2**20, mallinfo2().fordblks // 2**20)
"""


def is_asked() -> bool:
    return torch.are_deterministic_algorithms_enabled()


def test_on_a_cpu_the_order_is_asked_for_and_nothing_is_left_of_it() -> None:
    before = torch.utils.deterministic.fill_uninitialized_memory
    with same_order(torch.device("cpu")):
        assert is_asked()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not is_asked()
    assert torch.utils.deterministic.fill_uninitialized_memory == before


def test_an_error_leaves_nothing_of_it() -> None:
    with pytest.raises(KeyError), same_order(torch.device("cpu")):
        raise KeyError
    assert not is_asked()


def test_a_gpu_is_left_as_it_is() -> None:
    with same_order(torch.device("cuda")):
        assert not is_asked()


def test_training_asks_for_it_in_each_step(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, forward = [], TrainingModule.forward

    def watched(self: TrainingModule, *args: object, **kwargs: object) -> object:
        found.append(is_asked())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(TrainingModule, "forward", watched)
    train_run(tiny(num_epochs=1))
    assert found
    assert all(found)
    assert not is_asked()


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is of glibc")
@pytest.mark.parametrize(("how", "mapped", "kept"), [("keep", 0, 256), ("plain", 256, 0)])
def test_large_tensors_are_not_mapped_and_stay_when_they_are_freed(
    how: str, mapped: int, kept: int
) -> None:
    command = [sys.executable, "-c", ACCOUNT, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [int(value) for value in done.stdout.split()]
    assert found == pytest.approx([mapped, kept], abs=64)
