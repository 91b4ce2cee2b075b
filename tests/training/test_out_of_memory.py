"""A step that runs out of a device's memory is made again in smaller passes, with equal results."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.models.mask_decoder import Decoded, MaskDecoder
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint
from mobile_sam.training.out_of_memory import with_smaller_passes
from mobile_sam.training.run import train_run
from mobile_sam.training.step import TrainingModule
from tests.helpers.training_steps import batch, training_module

Make = Callable[..., RunConfig]


def fails(monkeypatch: pytest.MonkeyPatch, prompts: int, after: int = 0) -> list[int]:
    """Let the decoder run out of memory at more than so many prompts; gives what it was asked.

    after: calls that go well in any case.
    """
    asked: list[int] = []
    decode = MaskDecoder.decode

    def limited(
        self: MaskDecoder, image: Tensor, positions: Tensor, sparse: Tensor, *rest: Any
    ) -> Decoded:
        asked.append(len(sparse))
        if len(sparse) > prompts and len(asked) > after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(self, image, positions, sparse, *rest)

    monkeypatch.setattr(MaskDecoder, "decode", limited)
    return asked


def exact() -> TrainingModule:
    """A module whose gradients hardly depend on the order of sums."""
    return training_module(multimask=False).double().train()


def step(model: TrainingModule) -> Tensor:
    def attempt() -> Tensor:
        loss = model(batch())["loss"].sum()
        loss.backward()
        return loss.detach()

    return with_smaller_passes(model, batch(), attempt)


def gradients(model: TrainingModule) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def close(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], rtol=1e-6, atol=1e-9) for name in first
    )


def test_the_step_is_made_again_with_half_of_the_prompts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole, parts = exact(), exact()
    loss = step(whole)
    asked = fails(monkeypatch, prompts=2)
    with caplog.at_level(logging.WARNING):
        again = step(parts)
    assert asked[:3] == [4, 2, 2]
    assert torch.allclose(again, loss)
    assert close(gradients(parts), gradients(whole))
    assert "2 prompts at a time instead of 4" in caplog.text
    assert parts.objective.decoder_chunk_size == 2
    step(parts)
    assert max(asked[3:]) == 2  # no second failure


def test_gradients_of_earlier_batches_stay_and_those_of_failures_go() -> None:
    whole, parts = exact(), exact()
    step(whole)
    before = gradients(whole)
    step(whole)
    twice = gradients(whole)
    step(parts)
    assert close(gradients(parts), before)

    def attempt() -> None:
        parts(batch())["loss"].sum().backward()
        if parts.objective.decoder_chunk_size > 2:  # after the gradient, as in the worst case
            raise torch.OutOfMemoryError("CUDA out of memory")

    with_smaller_passes(parts, batch(), attempt)
    assert close(gradients(parts), twice)


def test_statistics_count_a_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = exact(), exact()
    step(whole)
    fails(monkeypatch, prompts=2)
    step(parts)
    first, second = (dict(model.named_buffers()) for model in (whole, parts))
    assert any("running_mean" in name for name in first)
    assert all(torch.allclose(first[name], second[name]) for name in first)


def test_one_prompt_of_each_image_is_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fails(monkeypatch, prompts=1)
    with pytest.raises(torch.OutOfMemoryError):
        step(training_module())
    assert asked == [4, 2]


def test_a_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tiny: Make, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"gradient_accumulation": 2, "precision": "64-true", "val_images": 0}
    settings |= {"multimask": False}
    usual, limited = tiny(run_name="usual", **settings), tiny(run_name="limited", **settings)
    train_run(usual)
    asked = fails(monkeypatch, prompts=4, after=1)  # in the second batch of a step
    train_run(limited)
    assert max(asked) == 8
    assert caplog.text.count("out of memory") == 1
    first, second = (weights(config) for config in (usual, limited))
    assert all(torch.allclose(first[name], second[name], atol=1e-8) for name in first)


def weights(config: RunConfig) -> dict[str, Tensor]:
    (stage,) = normalise(config)
    return checkpoint.load(RunPaths(config).checkpoint(stage))["learner"]
