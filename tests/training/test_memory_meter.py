"""The meter of memory: storages that are alive, of real tensors and of fake ones."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mobile_sam.training.memory_meter import MemoryMeter


def test_storages_count_once_and_while_they_live() -> None:
    before = torch.zeros(100)
    with MemoryMeter() as meter:
        kept = torch.zeros(1000)
        view = kept.view(10, 100)
        product = view * before
        assert (meter.bytes, meter.peak) == (8000, 8000)
        del product
        kept += 1
        assert (meter.bytes, meter.peak) == (4000, 8000)
        del kept
        assert meter.bytes == 4000  # the view keeps it
        del view
        assert meter.bytes == 0
        meter.count([before])
        assert (meter.bytes, meter.peak) == (400, 8000)


def test_what_autograd_keeps_is_alive() -> None:
    weight = torch.zeros(1000, requires_grad=True)
    with MemoryMeter() as meter:
        result = weight.exp().exp()  # each keeps its result
        assert meter.bytes == 8000
        result.sum().backward()
        del result
        assert meter.bytes == 4000  # the gradient


def test_one_device_can_be_counted_alone() -> None:
    with FakeTensorMode(), MemoryMeter("cuda") as meter:
        host = torch.zeros(1000)
        device = host.to("cuda")[:10]
        assert meter.bytes == 4000
        assert host.device != device.device


class _Choosing(nn.Module):
    """Looks at the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 64)

    def forward(self, rows: Tensor) -> Tensor:
        chosen = (rows > 0).any(1)
        if bool(chosen.any()):
            rows = rows[chosen.nonzero().squeeze(1)]
        return self.layer(rows).relu().square()


@pytest.mark.parametrize("rows", [10, 1000])
def test_fake_tensors_take_what_real_ones_take(rows: int) -> None:
    """With a decision that depends on values, for which the largest case is assumed."""
    peaks = []
    for mode in (torch.enable_grad(), FakeTensorMode()):
        with mode, MemoryMeter() as meter:
            model = _Choosing()
            model(torch.ones(rows, 8)).sum().backward()
        peaks.append(meter.peak)
    assert peaks[0] == peaks[1]
