import pytest
import torch

from mobile_sam.models.build import build_sam_model
from mobile_sam.models.mask_decoder import ALL, MULTI, SINGLE
from mobile_sam.models.sam import Sam
from mobile_sam.system.errors import ConfigError


@pytest.fixture(scope="module")
def model() -> Sam:
    return build_sam_model("tiny_sam", 64).eval()


def prompts(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 2, 2) * 64, torch.tensor([[2, 3], [1, -1]] * (count // 2))


@pytest.mark.parametrize(("multimask", "masks"), [(False, 1), (True, 3)])
def test_shapes(model: Sam, multimask: bool, masks: int) -> None:
    embedding = model.image_encoder(torch.randn(2, 3, 64, 64))
    logits, iou = model.decode(embedding, *prompts(6), multimask=multimask)
    assert logits.shape == (6, masks, 16, 16)
    assert iou.shape == (6, masks)


def test_prompts_of_an_image_do_not_see_each_other(model: Sam) -> None:
    embedding = model.image_encoder(torch.randn(2, 3, 64, 64))
    points, labels = prompts(6)
    together, _ = model.decode(embedding, points, labels)
    for i in range(6):
        alone, _ = model.decode(
            embedding[i // 3 : i // 3 + 1], points[i : i + 1], labels[i : i + 1]
        )
        assert torch.allclose(alone[0], together[i], atol=1e-5)


def test_a_padding_point_has_no_place(model: Sam) -> None:
    labels = torch.tensor([[1, -1]])
    here, there = (
        model.prompt_encoder.embed_points(torch.tensor([[[5.0, 5.0], [x, x]]]), labels)
        for x in (0.0, 60.0)
    )
    assert torch.equal(here, there)


def test_kinds_of_points_have_tokens_of_their_own(model: Sam) -> None:
    tokens = model.prompt_encoder.embed_points(
        torch.full((1, 5, 2), 9.0), torch.tensor([[-1, 0, 1, 2, 3]])
    )[0]
    assert torch.cdist(tokens, tokens).fill_diagonal_(1).min() > 0


def test_a_mask_prompt_changes_the_answer(model: Sam) -> None:
    embedding = model.image_encoder(torch.randn(1, 3, 64, 64))
    points, labels = prompts(2)
    without, _ = model.decode(embedding, points, labels)
    with_mask, _ = model.decode(embedding, points, labels, masks=torch.randn(2, 1, 16, 16))
    assert not torch.allclose(without, with_mask)


def test_uneven_prompts_are_an_error(model: Sam) -> None:
    embedding = model.image_encoder(torch.randn(2, 3, 64, 64))
    points, labels = prompts(4)
    with pytest.raises(ValueError, match="3 prompts cannot be divided evenly among 2 images"):
        model.decode(embedding, points[:3], labels[:3])


@pytest.mark.parametrize(("depth", "hidden"), [(1, 64), (2, 24), (4, 48)])
def test_the_iou_head_has_the_shape_it_is_given(depth: int, hidden: int) -> None:
    head = build_sam_model("tiny_sam", 64, depth, hidden).mask_decoder.iou_prediction_head
    assert len(head.layers) == depth
    assert head.layers[-1].out_features == 4
    if depth > 1:
        assert head.layers[0].out_features == hidden


@pytest.mark.parametrize(("model_type", "img_size"), [("vit_x", 64), ("vit_t", 100), ("vit_t", 0)])
def test_unknown_architectures_and_sizes_are_errors(model_type: str, img_size: int) -> None:
    with pytest.raises(ConfigError):
        build_sam_model(model_type, img_size)


def test_a_prompt_without_a_mask_in_a_batch_with_masks_is_as_it_was(model: Sam) -> None:
    embedding = model.image_encoder(torch.randn(1, 3, 64, 64))
    points, labels = prompts(4)
    masks, has_mask = torch.randn(4, 1, 16, 16), torch.tensor([False, True, False, True])
    without, _ = model.decode(embedding, points, labels)
    with_all, _ = model.decode(embedding, points, labels, masks=masks)
    mixed, _ = model.decode(embedding, points, labels, masks=masks, has_mask=has_mask)
    assert torch.allclose(mixed[~has_mask], without[~has_mask], atol=1e-6)
    assert torch.equal(mixed[has_mask], with_all[has_mask])


def test_an_absent_point_is_not_looked_at(model: Sam) -> None:
    embedding = model.image_encoder(torch.randn(1, 3, 64, 64))
    points, labels = prompts(4)
    short, short_iou = model.decode(embedding, points, labels)
    points = torch.cat([points, torch.rand(4, 3, 2) * 64], dim=1)
    labels = torch.cat([labels, torch.full((4, 3), -2)], dim=1)
    long, long_iou = model.decode(embedding, points, labels, absent_points=True)
    assert torch.allclose(short, long, atol=1e-5)
    assert torch.allclose(short_iou, long_iou, atol=1e-5)


def test_all_masks_are_the_one_and_the_three_of_them(model: Sam) -> None:
    embedding = model.image_encoder(torch.randn(2, 3, 64, 64))
    points, labels = prompts(6)
    every = model.decode_all(embedding, points, labels, outputs=ALL)
    assert every.mask_tokens.shape == (6, 4, model.prompt_encoder.embed_dim)
    for outputs in (SINGLE, MULTI):
        some = model.decode_all(embedding, points, labels, outputs=outputs)
        for found, expected in zip(some, every, strict=True):
            assert torch.allclose(found, expected[:, outputs.start : outputs.stop], atol=1e-6)


@pytest.mark.parametrize("outputs", [SINGLE, MULTI, ALL])
def test_hypernetworks_of_masks_not_asked_for_get_no_gradient(outputs: range) -> None:
    model = build_sam_model("tiny_sam", 64)
    embedding = torch.randn(1, model.prompt_encoder.embed_dim, 4, 4)
    decoded = model.decode_all(embedding, *prompts(2), outputs=outputs)
    sum(part.sum() for part in decoded).backward()
    mlps = model.mask_decoder.output_hypernetworks_mlps
    reached = [all(p.grad is not None for p in mlp.parameters()) for mlp in mlps]
    touched = [any(p.grad is not None for p in mlp.parameters()) for mlp in mlps]
    assert reached == touched == [mask in outputs for mask in range(4)]
