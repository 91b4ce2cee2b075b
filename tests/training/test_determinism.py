"""Gradients are added up in the same order, whichever thread comes first."""

from collections.abc import Callable

import pytest
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.training.determinism import same_order
from mobile_sam.training.run import train_run
from mobile_sam.training.step import TrainingModule


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
