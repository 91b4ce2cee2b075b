"""The encoders, and the traps of timm that they close."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mobile_sam.config.architectures import feature_channels, stride_16_blocks
from mobile_sam.config.sections import level_name
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.tiny_vit import TinyViTEncoder
from mobile_sam.system.errors import ConfigError


def biases(encoder: nn.Module) -> Iterator[nn.Parameter]:
    return (p for name, p in encoder.named_parameters() if "attention_biases" in name)


@pytest.fixture
def encoder() -> nn.Module:
    return build_sam_model("tiny_sam", 64).image_encoder


@pytest.mark.parametrize(
    "model_type", ["tiny_sam", "tiny_sam_se", "tiny_teacher_vit", "demo_student"]
)
@pytest.mark.parametrize("img_size", [64, 192])
def test_embeddings_have_stride_16(model_type: str, img_size: int) -> None:
    model = build_sam_model(model_type, img_size).eval()
    channels = feature_channels(model_type, "neck")
    with torch.no_grad():
        embedding = model.image_encoder(torch.randn(1, 3, img_size, img_size))
    assert embedding.shape == (1, channels, img_size // 16, img_size // 16)


def test_the_full_mobile_sam_at_another_size() -> None:
    model = build_sam_model("vit_t", 128).eval()
    with torch.no_grad():
        assert model.image_encoder(torch.randn(1, 3, 128, 128)).shape == (1, 256, 8, 8)


@pytest.mark.parametrize("model_type", ["tiny_sam", "tiny_teacher_vit", "demo_teacher"])
def test_block_features_have_the_channels_that_the_table_says(model_type: str) -> None:
    encoder = build_sam_model(model_type, 64).image_encoder.eval()
    for level in stride_16_blocks(model_type):
        with torch.no_grad():
            features = encoder.features(torch.randn(1, 3, 64, 64), [level])
        assert features[level_name(level)].shape == (1, feature_channels(model_type, level), 4, 4)


@pytest.mark.parametrize(
    ("model_type", "blocks"), [("tiny_teacher_vit", [2, 0]), ("tiny_sam", [2, 3])]
)
def test_one_pass_gives_each_level_as_a_pass_of_its_own(model_type: str, blocks: list[int]) -> None:
    encoder = build_sam_model(model_type, 64).image_encoder.eval()
    images = torch.randn(2, 3, 64, 64)
    passes = []
    encoder.body.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        for levels in (["neck", *blocks], blocks):
            passes.clear()
            together = encoder.features(images, levels)
            assert len(passes) == 1
            assert list(together) == [level_name(level) for level in levels]
            for level in levels:
                (alone,) = encoder.features(images, [level]).values()
                assert torch.equal(together[level_name(level)], alone)
        assert torch.equal(encoder.features(images, ["neck"])["neck"], encoder(images))


@pytest.mark.parametrize(("model_type", "level"), [("tiny_sam", 0), ("tiny_teacher_vit", 3)])
def test_a_block_without_features_is_an_error(model_type: str, level: int) -> None:
    encoder = build_sam_model(model_type, 64).image_encoder
    with pytest.raises(ConfigError, match="take one of"):
        encoder.features(torch.randn(1, 3, 64, 64), [level])


def test_biases_loaded_after_an_eval_forward_are_used(encoder: nn.Module) -> None:
    images = torch.randn(1, 3, 64, 64)
    encoder.eval()
    with torch.no_grad():
        before = encoder(images)
        state = encoder.state_dict()
        state = {
            k: v + 1.5 * torch.randn_like(v) if "attention_biases" in k else v
            for k, v in state.items()
        }
        encoder.load_state_dict(state)
        assert not torch.allclose(encoder(images), before)


def test_biases_get_a_gradient_in_eval_mode_after_no_grad(encoder: nn.Module) -> None:
    images = torch.randn(1, 3, 64, 64)
    encoder.eval()
    with torch.no_grad():
        encoder(images)
    for _ in range(2):  # timm's cache breaks the second backward
        encoder(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in biases(encoder))


def test_layer_norms_of_the_vit_use_1e_6() -> None:
    encoder = build_sam_model("tiny_teacher_vit", 64).image_encoder
    norms = [m for m in encoder.body.blocks.modules() if isinstance(m, nn.LayerNorm)]
    assert norms
    assert all(norm.eps == 1e-6 for norm in norms)


def test_squeeze_excite_starts_equal_and_learns() -> None:
    plain, gated = (build_sam_model(name, 64).image_encoder for name in ("tiny_sam", "tiny_sam_se"))
    for module in plain.modules():
        if isinstance(
            module, nn.BatchNorm2d
        ):  # timm starts some of them at zero, which hides gates
            nn.init.ones_(module.weight)
    missing, unexpected = gated.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert all(".se." in key for key in missing)
    assert not unexpected
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(plain.eval()(images), gated.eval()(images))
    gated(images).square().sum().backward()
    last = {n: p.grad for n, p in gated.named_parameters() if ".se.fc2." in n}
    assert last
    assert all(g is not None and g.abs().sum() > 0 for g in last.values())


def test_squeeze_excite_of_the_full_model_costs_69072_parameters() -> None:
    sizes = {
        name: sum(p.numel() for p in build_sam_model(name, 64).parameters())
        for name in ("vit_t", "vit_t_se")
    }
    assert sizes["vit_t_se"] - sizes["vit_t"] == 69_072


def test_weights_depend_on_the_seed_alone() -> None:
    def first(seed: int) -> Tensor:
        torch.rand(3)  # the history of the process
        model = build_sam_model("tiny_sam", 64, seed=seed)
        return model.get_parameter("image_encoder.neck.0.weight")

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_all_blocks_are_listed() -> None:
    encoder = build_sam_model("vit_t", 64).image_encoder
    assert isinstance(encoder, TinyViTEncoder)
    assert len(encoder.blocks) == 12


@pytest.mark.parametrize("name", ["repvit_m0_9", "efficientnet_lite0", "resnet18"])
def test_any_timm_backbone_can_be_the_encoder(name: str) -> None:
    model = build_sam_model(f"timm/{name}", 128).eval()
    with torch.no_grad():
        assert model.image_encoder(torch.randn(1, 3, 128, 128)).shape == (1, 256, 8, 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_net", "timm has no 'no_such_net'"),
        ("vit_small_patch14_dinov2", "has strides .*, but not 16"),
    ],
)
def test_a_backbone_that_timm_lacks_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_sam_model(f"timm/{name}", 128)


@pytest.mark.parametrize(("model_type", "millions"), [("vit_t_11m", 11), ("vit_t_21m", 21)])
def test_larger_tiny_vits(model_type: str, millions: int) -> None:
    encoder = build_sam_model(model_type, 128).image_encoder.eval()
    size = sum(p.numel() for p in encoder.parameters()) / 1e6
    assert millions * 0.9 < size < millions * 1.15
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, 128, 128)).shape == (1, 256, 8, 8)


@pytest.mark.parametrize("model_type", ["tiny_sam", "tiny_teacher_vit"])
@pytest.mark.parametrize("img_size", [256, 768, 1024, 1280])
def test_any_size(model_type: str, img_size: int) -> None:
    encoder = build_sam_model(model_type, img_size).image_encoder.eval()
    with torch.no_grad():
        embedding = encoder(torch.randn(1, 3, img_size, img_size))
    assert embedding.shape == (1, 32, img_size // 16, img_size // 16)
    assert torch.isfinite(embedding).all()


def test_position_embeddings_are_those_of_1024_pixels_at_any_size() -> None:
    states = [build_sam_model("tiny_teacher_vit", size).state_dict() for size in (64, 1024)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert states[0]["image_encoder.body.pos_embed"].shape[1:3] == (64, 64)


def test_channels_last_inside_changes_neither_the_embedding_nor_a_gradient() -> None:
    encoder = build_sam_model("tiny_sam", 64).image_encoder.double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    inside = encoder(images)
    contiguous = encoder.neck(encoder.body.stages(encoder.body.patch_embed(images)))
    assert inside.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(inside, contiguous, rtol=1e-9, atol=1e-9)
    direction = torch.randn_like(contiguous)
    gradients = [
        torch.autograd.grad(embedding, list(encoder.parameters()), direction)
        for embedding in (inside, contiguous)
    ]
    for ours, plain in zip(*gradients, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-9, atol=1e-9)
