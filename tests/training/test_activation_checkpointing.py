"""An encoder that is computed again for its gradient: less memory, and the same training."""

from collections.abc import Callable

import pytest
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.models.build import build_sam_model
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.training import checkpoint
from mobile_sam.training.activation_checkpointing import recompute_encoder
from mobile_sam.training.run import train_run
from tests.helpers.equality import equal_states

Make = Callable[..., RunConfig]


def kept(model_type: str, again: bool) -> int:
    """Bytes that a pass of the encoder keeps for the gradient, without parameters."""
    encoder = build_sam_model(model_type, 64).image_encoder.train()
    if again:
        recompute_encoder(encoder)
    own = {parameter.data_ptr() for parameter in encoder.parameters()}
    held: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = encoder(torch.zeros(2, 3, 64, 64))
    output.sum().backward()
    return sum(held.values())


@pytest.mark.parametrize("model_type", ["tiny_sam", "tiny_teacher_vit"])
def test_less_is_kept(model_type: str) -> None:
    assert kept(model_type, again=True) < 0.5 * kept(model_type, again=False)


@pytest.mark.parametrize("changes", [{"freeze_batchnorm": False}, {"gradient_accumulation": 2}])
def test_the_weights_and_statistics_are_the_same(changes: dict[str, object], tiny: Make) -> None:
    found = []
    for again in (False, True):
        config = tiny(run_name=f"{again}", num_epochs=2, recompute_encoder=again, **changes)
        train_run(config)
        (stage,) = normalise(config)
        found.append(checkpoint.load(RunPaths(config).checkpoint(stage))["learner"])
    assert any("running_mean" in name for name in found[0])
    assert equal_states(*found)


def test_a_backbone_that_cannot_is_named() -> None:
    encoder = torch.nn.Module()
    encoder.body = torch.nn.Identity()
    with pytest.raises(ConfigError, match="timm's Identity does not support it"):
        recompute_encoder(encoder)
