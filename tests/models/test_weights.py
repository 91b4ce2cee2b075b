"""Weights as files: names of the original code, strict loading, nothing executed."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.models.build import build_sam_model, load_imagenet
from mobile_sam.models.detect_architecture import load_any
from mobile_sam.models.safe_load import load_file
from mobile_sam.models.weights import from_original, load_state, to_original
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.training.export import export_weights
from mobile_sam.training.run import train_run
from tests.helpers.equality import equal_states


@pytest.mark.parametrize(
    "model_type", ["vit_t", "vit_t_se", "vit_b", "tiny_sam", "tiny_teacher_vit"]
)
def test_the_map_of_names_is_invertible(model_type: str) -> None:
    model = build_sam_model(model_type, 64)
    back = from_original(model, to_original(model))
    assert equal_states(back, model.state_dict())


def test_names_are_those_of_the_original_mobile_sam() -> None:
    names = set(to_original(build_sam_model("vit_t", 64)))
    for name in (
        "image_encoder.patch_embed.seq.0.c.weight",
        "image_encoder.patch_embed.seq.2.bn.running_mean",
        "image_encoder.layers.0.blocks.1.conv3.c.weight",
        "image_encoder.layers.0.downsample.conv2.c.weight",
        "image_encoder.layers.1.blocks.0.attn.attention_biases",
        "image_encoder.layers.2.blocks.5.local_conv.c.weight",
        "image_encoder.layers.3.blocks.1.mlp.fc2.bias",
        "image_encoder.norm_head.weight",
        "image_encoder.neck.3.bias",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "mask_decoder.transformer.layers.1.cross_attn_image_to_token.out_proj.weight",
        "mask_decoder.output_hypernetworks_mlps.3.layers.2.bias",
    ):
        assert name in names, name


def test_names_are_those_of_the_original_sam() -> None:
    names = set(to_original(build_sam_model("tiny_teacher_vit", 64)))
    for name in (
        "image_encoder.pos_embed",
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.blocks.2.attn.rel_pos_h",
        "image_encoder.blocks.0.mlp.lin1.weight",
        "image_encoder.neck.0.weight",
    ):
        assert name in names, name


def test_a_file_gives_the_same_model(tmp_path: Path) -> None:
    model = build_sam_model("tiny_sam", 64, iou_head_depth=2, iou_head_hidden_dim=40, seed=3)
    torch.save(to_original(model), tmp_path / "weights.pt")
    loaded = load_any(tmp_path / "weights.pt", 64, "tiny_sam")
    assert equal_states(loaded.state_dict(), model.state_dict())


def test_a_gated_model_starts_from_plain_weights() -> None:
    plain, gated = build_sam_model("tiny_sam", 64, seed=1), build_sam_model("tiny_sam_se", 64)
    load_state(gated, to_original(plain), "test")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(plain.eval().image_encoder(images), gated.eval().image_encoder(images))


def test_every_key_that_does_not_fit_is_listed() -> None:
    model = build_sam_model("tiny_sam", 64)
    state = to_original(model)
    del state["mask_decoder.iou_token.weight"], state["image_encoder.neck.1.bias"]
    state["mask_decoder.extra"] = torch.zeros(1)
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 7)
    with pytest.raises(ConfigError) as caught:
        load_state(model, state, "my.pt")
    message = str(caught.value)
    assert "my.pt: the weights do not fit" in message
    assert "missing: image_encoder.neck.1.bias, mask_decoder.iou_token.weight" in message
    assert "unexpected: mask_decoder.extra" in message
    assert "prompt_encoder.no_mask_embed.weight is (1, 7) instead of (1, 32)" in message


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def test_a_malicious_pickle_is_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    torch.save({"a": Malicious()}, path)
    with pytest.raises(ConfigError, match="refused"):
        load_file(path)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ConfigError, match=r"refused|not a file of torch\.save"):
        load_file(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"hello, I am text", b"PK\x03\x04 half a zip"])
def test_what_is_no_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights\.pt: "):
        load_file(path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(to_original(build_sam_model("tiny_sam", 64)), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"not a file of torch\.save, or a damaged one"):
        load_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pt: there is no such file"):
        load_file(tmp_path / "none.pt")


def test_a_checkpoint_is_not_taken_for_weights(tmp_path: Path) -> None:
    torch.save({"format": "something", "model": {}}, tmp_path / "x.pt")
    with pytest.raises(ConfigError, match="not a weights file"):
        load_any(tmp_path / "x.pt", 64, "tiny_sam")


@pytest.mark.parametrize(
    ("model_type", "name"), [("vit_t_11m", "tiny_vit_11m_224"), ("timm/resnet18", "resnet18")]
)
def test_imagenet_weights_reach_the_encoder(
    model_type: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        asked.append(name)
        assert pretrained
        return create(name, **options)  # random weights stand for those of the network

    model = build_sam_model(model_type, 64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    monkeypatch.setattr(timm, "create_model", offline)
    load_imagenet(model, model_type)
    assert asked == [name]
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(key.startswith("image_encoder.body.") for key in changed)


def test_architectures_without_imagenet_weights_are_named() -> None:
    with pytest.raises(ConfigError, match="weights for 'tiny_sam'; it has some for vit_t"):
        load_imagenet(build_sam_model("tiny_sam", 64), "tiny_sam")


def test_imagenet_weights_that_cannot_be_fetched_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*args: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConfigError, match=r"'tiny_vit_5m_224' cannot be fetched \(no network\)"):
        load_imagenet(build_sam_model("vit_t", 64), "vit_t")


def test_export_of_gates_says_who_reads_them(
    tiny: Callable[..., RunConfig], caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(model_type="tiny_sam_se")
    train_run(config)
    with caplog.at_level("INFO"):
        export_weights(config)
    assert "gates, which only this package reads" in caplog.text
    state = load_file(RunPaths(config).weights)
    assert any(".se." in key for key in state)
