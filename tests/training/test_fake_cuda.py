"""Training and extraction on fake CUDA tensors: see `tests/helpers/fake_cuda.py`.

The engine of autograd refuses fake CUDA tensors where there is no GPU, so `backward` walks its
graph.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.extraction.passes import teacher_pass
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.sam import Sam
from mobile_sam.training.epoch_validation import image_iou
from mobile_sam.training.losses import FUNCTIONS, dice
from mobile_sam.training.setup import new_training_module
from mobile_sam.training.step_memory import blank_batch, validation_image
from tests.helpers.fake_cuda import CUDA, TYPES, cast, devices, fake_cuda, on_cuda

LEVELS = {"tiny_sam": ["neck", 2], "tiny_teacher_vit": ["neck", 1]}
EVERYTHING: dict[str, Any] = {
    **{"run_name": "fake", "model_type": "tiny_sam", "img_size": 64, "checkpoint": None},
    **{"teacher_checkpoint": "random", "teacher_model_type": "tiny_teacher_vit"},
    **{"use_distill": True, "objects_per_image": 2, "prompt_rounds": 2},
    "loss_weights": {"focal": 20.0, "dice": 1.0, "iou": 1.0, "boundary": 1.0},
    "distill_losses": {
        **{"mse": 1.0, "cosine": 1.0, "attention": 1.0, "relation": 1.0},
        **{"mask_bce": 1.0, "mask_dice": 1.0, "mask_tokens": 1.0, "predicted_iou": 1.0},
    },
    "distill_feature_level": ["neck", 1],
    "prompts": {"box": 0.5, "point": 0.5, "mask": 0.5, "points": 0.5},
}


def backward(loss: Tensor) -> None:
    """Gradients of `loss`, by the formulas of autograd in the order of its engine."""
    assert loss.grad_fn is not None
    order: list[Any] = []
    seen: set[Any] = set()

    def visit(node: Any) -> None:
        pending = [(node, iter(node.next_functions))]
        seen.add(node)
        while pending:
            current, following = pending[-1]
            child = next((f for f, _ in following if f is not None and f not in seen), None)
            if child is None:
                order.append(current)
                pending.pop()
            else:
                seen.add(child)
                pending.append((child, iter(child.next_functions)))

    visit(loss.grad_fn)
    gradients: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    for node in reversed(order):
        own = gradients.pop(node, {})
        if not own:
            continue
        if hasattr(node, "variable"):
            node.variable.grad = own[0]
            continue
        given = [own.get(i) for i in range(max(own) + 1)]
        apply = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
        found = apply(*given)
        found = found if isinstance(found, tuple) else (found,)
        for (following, place), gradient in zip(node.next_functions, found, strict=False):
            if following is not None and gradient is not None:
                own_gradient = fitted(gradient, following, place)
                places = gradients.setdefault(following, {})
                before = places.get(place)
                places[place] = own_gradient if before is None else before + own_gradient


def fitted(gradient: Tensor, node: Any, place: int) -> Tensor:
    """The gradient in the shape and type of what it is of, as the engine of autograd gives it."""
    given = node.variable if hasattr(node, "variable") else node._input_metadata[place]
    assert gradient.device == CUDA
    return gradient.sum_to_size(given.shape).to(given.dtype)


def step(config: RunConfig, dtype: torch.dtype | None) -> nn.Module:
    stage = normalise(config)[0]
    module = on_cuda(lambda: new_training_module(config, stage, CUDA))
    batch = blank_batch(config, stage, 2).to(CUDA)
    with cast(dtype):
        supervised = module(batch)
    assert devices(iter(supervised.values())) == {CUDA}
    assert {loss.dtype for loss in supervised.values()} == {torch.float32}
    backward(supervised["loss"].sum())
    return module


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"click_target": "teacher", "decoder_chunk_size": 2},
        {"freeze": {"image_encoder": True}, "recompute_encoder": True},
        {"mask_loss_points": 64, "decoder_chunk_size": 2},
    ],
    ids=["everything", "in parts", "cached embeddings", "at points"],
)
def test_a_training_step(changes: dict[str, Any], dtype: torch.dtype | None) -> None:
    config = parse_config(EVERYTHING | changes, "test")
    with fake_cuda():
        module = step(config, dtype)
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert len(gradients) > 20
        assert devices(iter(gradients)) == {CUDA}
        assert {gradient.dtype for gradient in gradients} == {torch.float32}


def test_a_tensor_that_stayed_on_the_cpu_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        return dice(logits, truth, torch.ones(valid.shape))

    monkeypatch.setitem(FUNCTIONS, "dice", careless)
    with fake_cuda(), pytest.raises(RuntimeError, match="same device"):
        step(parse_config(EVERYTHING, "test"), None)


def test_a_type_that_does_not_fit_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(student: Tensor, teacher: Tensor, *rest: Tensor) -> Tensor:
        return (student.flatten(1).half() @ teacher.flatten(1).mT).sum(1)

    monkeypatch.setitem(FUNCTIONS, "mse", careless)
    with fake_cuda(), pytest.raises(RuntimeError, match="dtype"):
        step(parse_config(EVERYTHING, "test"), None)


@pytest.mark.parametrize("dtype", TYPES)
def test_validation_after_an_epoch(dtype: torch.dtype | None) -> None:
    config = parse_config(EVERYTHING, "test")
    with fake_cuda(), cast(dtype), torch.no_grad():
        ious = image_iou(model(), validation_image(config, normalise(config)[0]), CUDA, 1)
    assert ious.shape == (2,)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", LEVELS)
def test_extraction(name: str, dtype: torch.dtype | None) -> None:
    with fake_cuda(), cast(dtype):
        encoder = on_cuda(lambda: build_sam_model(name, 64)).image_encoder
        found = teacher_pass(encoder, torch.zeros(2, 3, 64, 64, device=CUDA), LEVELS[name])
    assert devices(iter(found.values())) == {CUDA}


def model() -> Sam:
    sam: Sam = on_cuda(lambda: build_sam_model("tiny_sam", 64))
    return sam.eval()
