"""Parts of the model are built and called as in the original."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mobile_sam.modeling import MaskDecoder, PromptEncoder, Sam, TinyViT
from mobile_sam.models.build import build_sam_model
from tests.helpers.clients.grounded_sam import setup_model
from tests.helpers.equality import equal_states

POINTS = torch.tensor([[[10.0, 20.0], [50.0, 7.5]], [[3.0, 0.0], [63.0, 4.0]]])
LABELS = torch.tensor([[1, 0], [0, 1]])
BOXES = torch.tensor([[5.0, 6.0, 30.0, 40.0], [0.0, 0.0, 64.0, 64.0]])


@pytest.fixture(scope="module")
def model() -> Sam:
    return build_sam_model("tiny_sam", 64, seed=3).eval()


@pytest.fixture(scope="module")
def embedding(model: Sam) -> Tensor:
    torch.manual_seed(0)
    return model.image_encoder(torch.randn(1, 3, 64, 64)).detach()


class Prompts(NamedTuple):
    """Arguments of the original's prompt encoder."""

    points: tuple[Tensor, Tensor] | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None


def asked(model: Sam, embedding: Tensor, multimask: bool, prompts: Prompts) -> tuple[Tensor, ...]:
    sparse, dense = model.prompt_encoder(**prompts._asdict())
    return model.mask_decoder(
        image_embeddings=embedding,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )


@pytest.mark.parametrize("multimask", [True, False])
def test_calls_part_by_part_are_those_of_the_whole(
    model: Sam, embedding: Tensor, multimask: bool
) -> None:
    masks = torch.randn(2, 1, 16, 16)
    for prompts in (
        Prompts((POINTS, LABELS)),
        Prompts(boxes=BOXES),
        Prompts((POINTS, LABELS), BOXES, masks),
        Prompts(masks=masks),
        Prompts(),
    ):
        coords, labels = prompts.points or (None, None)
        points = model.prompt_encoder.as_points(coords, labels, prompts.boxes, prompts.masks)
        expected = model.decode(embedding, *points, prompts.masks, multimask)
        for found, other in zip(asked(model, embedding, multimask, prompts), expected, strict=True):
            assert torch.allclose(found, other, atol=1e-5)


def test_all_four_masks_come_from_predict_masks(model: Sam, embedding: Tensor) -> None:
    sparse, dense = model.prompt_encoder((POINTS, LABELS), None, None)
    assert dense.shape == (2, 32, 4, 4)
    places = model.prompt_encoder.get_dense_pe()
    logits, iou = model.mask_decoder.predict_masks(embedding, places, sparse, dense)
    for multimask, chosen in ((False, slice(0, 1)), (True, slice(1, 4))):
        found = model.mask_decoder(embedding, places, sparse, dense, multimask)
        assert torch.allclose(found[0], logits[:, chosen], atol=1e-5)
        assert torch.allclose(found[1], iou[:, chosen], atol=1e-5)


def test_gradients_reach_the_parts(embedding: Tensor) -> None:
    model = build_sam_model("tiny_sam", 64)
    logits, iou = asked(model, embedding, False, Prompts(boxes=BOXES))
    (logits.mean() + iou.mean()).backward()
    assert model.mask_decoder.iou_token.weight.grad.abs().max() > 0
    assert model.prompt_encoder.point_embeddings[2].weight.grad.abs().max() > 0


def test_a_model_is_built_from_the_originals_parts() -> None:
    """With all arguments that MobileSAM's own builder passes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = setup_model()
    assert equal_states(built.state_dict(), build_sam_model("vit_t").state_dict())
    assert built.img_size == built.image_encoder.img_size == 1024
    encoder, decoder = built.prompt_encoder, built.mask_decoder
    assert (encoder.image_embedding_size, encoder.input_image_size) == ((64, 64), (1024, 1024))
    assert (encoder.mask_input_size, encoder.num_point_embeddings) == ((256, 256), 4)
    assert (decoder.num_mask_tokens, decoder.num_multimask_outputs) == (4, 3)
    assert decoder.transformer_dim == 256


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TinyViT([8] * 4, [1] * 4, [1] * 4, [7] * 4, in_chans=1), "in_chans: 1"),
        (lambda: TinyViT([8] * 4, [1] * 4, [1] * 4, [7] * 4, wide=1), "wide: 1"),
        (lambda: PromptEncoder(8, (4, 4), (64, 32)), r"give \(S, S\) and \(S/16, S/16\)"),
        (lambda: PromptEncoder(8, (8, 8), (64, 64)), r"give \(S, S\) and \(S/16, S/16\)"),
        (
            lambda: MaskDecoder(transformer_dim=8, transformer=None, num_multimask_outputs=2),
            "num_multimask_outputs: 2; it must be 3",
        ),
        (lambda: Sam(None, None, None, pixel_mean=[0, 0, 0]), "pixel_mean, pixel_std"),
    ],
)
def test_what_there_is_not_is_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("label", [4, -2, 100])
def test_unknown_labels_are_a_sentence(model: Sam, label: int) -> None:
    """On a GPU they were an assert of the device, after which no other call worked."""
    with pytest.raises(ValueError, match=f"labels: {label} is not valid; 1 is foreground"):
        model.prompt_encoder((POINTS, LABELS * 0 + label), None, None)


def test_points_and_labels_of_other_shapes_are_a_sentence(model: Sam) -> None:
    with pytest.raises(ValueError, match=r"labels: of shape \(2, 1\); they must be \(N, T, 2\)"):
        model.prompt_encoder((POINTS, LABELS[:, :1]), None, None)
    with pytest.raises(ValueError, match=r"points: of shape \(2, 2\)"):
        model.prompt_encoder((POINTS[0], LABELS), None, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_positions_are_exact_in_16_bits(model: Sam, dtype: torch.dtype) -> None:
    """A step of bfloat16 near 1 is 4 of 1024 pixels."""
    encoder = build_sam_model("vit_t").prompt_encoder
    places = torch.arange(900.0, 904.0)[None, :, None].expand(1, 4, 2)
    labels = torch.ones(1, 4, dtype=torch.long)
    exact = encoder.embed_points(places, labels)[0]
    found = encoder.to(dtype).embed_points(places, labels)[0]
    assert found.dtype == dtype
    assert (found.float() - exact).abs().max() < 0.1
    assert torch.cdist(found.float(), found.float()).fill_diagonal_(1).min() > 0.05
