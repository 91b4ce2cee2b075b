"""torch.compile: the same student, by other code, and a sentence where there is no compiler."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.training import checkpoint, compiling
from mobile_sam.training.run import new_fabric, train_run
from mobile_sam.training.setup import new_training_module
from tests.helpers.equality import equal_states

Make = Callable[..., RunConfig]


def content(config: RunConfig) -> dict[str, Any]:
    return checkpoint.load(RunPaths(config).checkpoint(normalise(config)[-1]))


@pytest.mark.long
def test_compiled_it_learns_the_same(tiny: Make, caplog: pytest.LogCaptureFixture) -> None:
    plain, compiled = tiny(run_name="plain"), tiny(run_name="compiled", compile=True)
    train_run(plain)
    with caplog.at_level("INFO"):
        train_run(compiled)
    assert "compile: forward and backward of 4 images take " in caplog.text
    first, second = content(plain)["learner"], content(compiled)["learner"]
    assert first.keys() == second.keys()
    assert not equal_states(first, second)
    close = [torch.allclose(first[k].float(), second[k].float(), atol=5e-3) for k in first]
    assert sum(close) / len(close) > 0.9


def test_a_measurement_leaves_no_trace_and_the_encoder_alone_is_compiled(
    tiny: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny()
    module = new_training_module(config, normalise(config)[0], torch.device("cpu"))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    counter = CompileCounter()
    original = torch.nn.Module.compile
    compiled: list[torch.nn.Module] = []

    def compile_by_counting(self: torch.nn.Module, **options: Any) -> None:
        compiled.append(self)
        original(self, backend=counter, **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_by_counting)
    times = iter([0.25, 0.5])
    seconds = compiling._seconds
    monkeypatch.setattr(compiling, "_seconds", lambda *args: (seconds(*args), next(times))[1])
    torch._dynamo.reset()
    with caplog.at_level("INFO"):
        compiling.compile_encoder(module.student, 2, new_fabric(config, "cpu"))
    assert compiled == [module.student.image_encoder]
    assert counter.frame_count > 0
    assert equal_states(module.state_dict(), before)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert "forward and backward of 2 images take 0.500 s, eager 0.250 s" in caplog.text
    assert "compile: true makes the encoder slower here; set it to false" in caplog.text


def test_a_missing_compiler_is_a_sentence(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, but there is no 'no"):
        train_run(tiny(compile=True))


def test_without_triton_a_gpu_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    with pytest.raises(ConfigError, match="compile: true needs Triton on a GPU"):
        compiling.check_compiler("cuda")


def test_what_cannot_be_compiled_is_a_sentence(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: torch.nn.Module, **options: Any) -> None:
        monkeypatch.setattr(type(self), "forward", _broken)

    monkeypatch.setattr(torch.nn.Module, "compile", fail)
    with pytest.raises(ConfigError, match=r"cannot be compiled here \(no backend\)"):
        train_run(tiny(compile=True))


def _broken(*_: Any) -> Any:
    raise RuntimeError("no backend\nand a long story")


def test_a_frozen_encoder_is_not_compiled(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", _broken)
    train_run(tiny(compile=True, freeze={"image_encoder": True}))
