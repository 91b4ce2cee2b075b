"""The decoder against a plain one that repeats embeddings and projects every cell."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.models.build import build_sam_model
from mobile_sam.models.mask_decoder import ALL, SINGLE
from mobile_sam.models.prompt_encoder import ABSENT
from mobile_sam.models.sam import Sam
from mobile_sam.models.two_way import DownsamplingAttention, TwoWayBlock

PROMPTS, IMAGES = 6, 2


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=["tiny_sam", "demo_student"])  # of one block and of two
def model(request: pytest.FixtureRequest, float64: None) -> Sam:
    model = build_sam_model(request.param, 64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.mask_decoder.parameters():  # biases that are zero hide errors
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def attention(
    module: DownsamplingAttention, q: Tensor, k: Tensor, v: Tensor, seen: Tensor
) -> Tensor:
    """q: (N, T, C); k, v: (N, U, C); seen: (N, U) bool."""
    q, k, v = (
        projection(x).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for projection, x in ((module.q_proj, q), (module.k_proj, k), (module.v_proj, v))
    )
    products = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen[:, None, None], float("-inf"))
    return module.out_proj((products.softmax(-1) @ v).transpose(1, 2).flatten(2))


def block(
    module: TwoWayBlock, tokens: Tensor, image: Tensor, own: Tensor, places: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    every_cell = torch.ones(image.shape[:2], dtype=torch.bool)
    if module.first:
        tokens = module.norm1(attention(module.self_attn, tokens, tokens, tokens, present))
    else:
        q = tokens + own
        tokens = module.norm1(tokens + attention(module.self_attn, q, q, tokens, present))
    q, k = tokens + own, image + places
    found = attention(module.cross_attn_token_to_image, q, k, image, every_cell)
    tokens = module.norm2(tokens + found)
    tokens = module.norm3(tokens + module.mlp(tokens))
    q = tokens + own
    found = attention(module.cross_attn_image_to_token, k, q, tokens, present)
    return tokens, module.norm4(image + found)


def upscaled(modules: nn.Sequential, image: Tensor) -> Tensor:
    first, norm, _, second, _ = modules
    image = F.conv_transpose2d(image, first.weight, first.bias, stride=2)
    variance, mean = torch.var_mean(image, 1, keepdim=True, correction=0)
    image = (image - mean) / torch.sqrt(variance + 1e-6)
    scale, shift = norm.get_parameter("weight"), norm.get_parameter("bias")
    image = F.gelu(image * scale[:, None, None] + shift[:, None, None])
    return F.gelu(F.conv_transpose2d(image, second.weight, second.bias, stride=2))


def plainly(
    model: Sam,
    embedding: Tensor,
    points: Tensor,
    labels: Tensor,
    masks: Tensor | None,
    has_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `decode_all` gives of all masks."""
    decoder = model.mask_decoder
    sparse, dense = model.prompt_encoder.embed(points, labels, masks, has_mask)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = own = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
    present = torch.cat([torch.ones(len(labels), 5, dtype=torch.bool), labels != ABSENT], dim=1)
    image = embedding.repeat_interleave(len(sparse) // len(embedding), dim=0) + dense
    size = image.shape[-2:]
    image = image.flatten(2).transpose(1, 2)
    places = model.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
    for module in decoder.transformer.layers:
        tokens, image = block(module, tokens, image, own, places, present)
    every_cell = torch.ones(image.shape[:2], dtype=torch.bool)
    last = decoder.transformer.final_attn_token_to_image
    found = attention(last, tokens + own, image + places, image, every_cell)
    tokens = decoder.transformer.norm_final_attn(tokens + found)
    pixels = upscaled(decoder.output_upscaling, image.transpose(1, 2).unflatten(-1, size))
    mlps = decoder.output_hypernetworks_mlps
    kernels = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)
    logits = torch.einsum("nmc,nchw->nmhw", kernels, pixels)
    return logits, decoder.iou_prediction_head(tokens[:, 0]), tokens[:, 1:5]


def boxes() -> dict[str, Tensor]:
    return {"points": 64 * torch.rand(PROMPTS, 2, 2), "labels": torch.tensor([[2, 3]] * PROMPTS)}


def many_points() -> dict[str, Tensor]:
    """More of them than an image's cells are worth projecting for, some absent."""
    labels = torch.randint(0, 4, (PROMPTS, 20))
    labels[0, 1:], labels[3, 5:], labels[4, 2:] = ABSENT, ABSENT, -1
    return {"points": 64 * torch.rand(PROMPTS, 20, 2), "labels": labels}


def some_masks() -> dict[str, Tensor]:
    has_mask = torch.tensor([True, False, False, True, True, False])
    return boxes() | {"masks": torch.randn(PROMPTS, 1, 16, 16), "has_mask": has_mask}


@pytest.mark.parametrize("images", [1, IMAGES, PROMPTS])
@pytest.mark.parametrize("kind", [boxes, many_points, some_masks])
def test_outputs_and_gradients_are_those_of_a_plain_decoder(
    model: Sam, kind: Callable[[], dict[str, Tensor]], images: int
) -> None:
    torch.manual_seed(0)
    prompts = kind()
    embedding = torch.randn(images, model.prompt_encoder.embed_dim, 4, 4, requires_grad=True)
    expected = plainly(model, embedding, **{"masks": None, "has_mask": None} | prompts)
    found = model.decode_all(embedding, **prompts, absent_points=True, outputs=ALL)
    parameters = dict(model.mask_decoder.named_parameters()) | {"embedding": embedding}
    directions = [torch.randn_like(part) for part in expected]
    for ours, plain in zip(found, expected, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-9, atol=1e-9)
    gradients = [
        torch.autograd.grad(parts, list(parameters.values()), directions)
        for parts in (found, expected)
    ]
    for name, ours, plain in zip(parameters, *gradients, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-9, atol=1e-9), name
        # A key's bias adds the same to all that a query sees.
        assert plain.abs().max() > 1e-3 or name.endswith("k_proj.bias"), name


def test_an_image_without_a_mask_prompt_is_projected_once(model: Sam) -> None:
    seen = []
    first = model.mask_decoder.transformer.layers[0].cross_attn_image_to_token.q_proj
    first.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    embedding = torch.randn(IMAGES, model.prompt_encoder.embed_dim, 4, 4)
    model.decode_all(embedding, **boxes(), outputs=SINGLE)
    assert [shape[0] for shape in seen] == [IMAGES]
