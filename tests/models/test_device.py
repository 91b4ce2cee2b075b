"""Devices: the number format that a GPU computes in by itself, whatever it emulates."""

import pytest
import torch

from mobile_sam.extraction import passes
from mobile_sam.models.device import fastest_precision
from mobile_sam.training import precision

CUDA = torch.device("cuda")
FORMATS = [
    ((6, 1), "32-true"),
    ((7, 0), "16-mixed"),
    ((7, 5), "16-mixed"),
    ((8, 0), "bf16-mixed"),
    ((9, 0), "bf16-mixed"),
]


@pytest.fixture
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of one compute capability, which emulates bfloat16 where it has no units for it."""
    major, minor = request.param

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or major >= 8

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))


@pytest.mark.parametrize(("capability", "expected"), FORMATS, indirect=["capability"])
def test_emulated_formats_are_not_chosen(
    capability: None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fastest_precision(CUDA) == expected
    assert precision.resolve_precision("auto", "cuda") == expected
    assert precision.resolve_precision("64-true", "cuda") == "64-true"
    monkeypatch.setattr(torch, "autocast", lambda device, dtype: dtype)
    found: object = passes.precision(CUDA)
    dtypes = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
    assert found is dtypes[expected] if expected in dtypes else not isinstance(found, torch.dtype)


def test_a_cpu_computes_in_32_bits() -> None:
    assert fastest_precision(torch.device("cpu")) == "32-true"


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)], indirect=True)
def test_emulated_bfloat16_is_warned_of(
    capability: None, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    precision.warn_if_slow("bf16-mixed", "cuda")
    emulated = torch.cuda.get_device_capability() < (8, 0)
    assert ("emulates bfloat16; 16-mixed is faster" in caplog.text) == emulated
