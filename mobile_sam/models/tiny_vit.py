"""MobileSAM's image encoder: timm's TinyViT with SAM's neck.

TinyViT: Wu et al., arXiv:2207.10666; its use in SAM: Zhang et al., arXiv:2306.14289.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import SqueezeExcite
from timm.models import checkpoint_seq
from timm.models.tiny_vit import Attention, MBConv, TinyVit, TinyVitBlock
from torch import Tensor, nn

from mobile_sam.config.sections import Level
from mobile_sam.models import original_names
from mobile_sam.models.neck import Neck, features_of_blocks
from mobile_sam.system.errors import ConfigError


class UncachedAttention(Attention):
    """Attention of timm without its cache of biases.

    In eval mode the cache keeps old biases after `load_state_dict`, breaks a second backward pass,
    and detaches the biases after a forward pass under `no_grad`.
    """

    def get_attention_biases(self, device: torch.device) -> Tensor:
        return self.attention_biases[:, self.attention_bias_idxs]


class DoubleSigmoid(nn.Module):
    """Gate in (0, 2) that is exactly 1 for an input of 0, where it has a slope."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(x)


# Other arguments of the original's class: those with the only supported value, and those without
# effect.
_FIXED = {
    "in_chans": 3,
    "mlp_ratio": 4.0,
    "drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "mbconv_expand_ratio": 4.0,
    "local_conv_size": 3,
}
_WITHOUT_EFFECT = ("img_size", "num_classes", "use_checkpoint", "layer_lr_decay")


class TinyViTEncoder(nn.Module):
    """Image encoder: from images to embeddings of stride 16.

    embed_dims, depths, num_heads, window_sizes: one value for each of the four stages; the last
    stage keeps the stride of the third.
    out_dim: channels of the embedding.
    squeeze_excite: adds gates that leave a plain model's output unchanged until trained.
    others: further arguments of the original's `TinyViT`.
    recompute: whether stages store only their input and run again in the backward pass.
    """

    recompute = False
    original_names = original_names.TINY_VIT

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_sizes: Sequence[int],
        out_dim: int = 256,
        squeeze_excite: bool = False,
        **others: Any,
    ) -> None:
        super().__init__()
        for name, value in others.items():
            if name not in _WITHOUT_EFFECT and value != _FIXED.get(name):
                raise ValueError(f"{name}: {value!r}; MobileSAM's TinyViT has {_FIXED.get(name)!r}")
        self.body = TinyVit(
            num_classes=0,
            global_pool="",
            embed_dims=tuple(embed_dims),
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_sizes=tuple(window_sizes),
            drop_path_rate=0.0,
        )
        self.body.head = nn.Identity()
        self.body.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = Neck(embed_dims[-1], out_dim)
        self.blocks = [block for stage in self.body.stages for block in stage.blocks]
        self.stride_16_blocks = range(sum(depths[:2]), sum(depths))
        self._replace_attention()
        if squeeze_excite:
            self._add_squeeze_excite()

    def _replace_attention(self) -> None:
        for block in self.blocks:
            if isinstance(block, TinyVitBlock):
                old = block.attn
                block.attn = UncachedAttention(
                    block.dim,
                    old.key_dim,
                    old.num_heads,
                    attn_ratio=old.attn_ratio,
                    resolution=old.resolution,
                )
                block.attn.load_state_dict(old.state_dict())

    def _add_squeeze_excite(self) -> None:
        for block in self.blocks:
            conv_norm = block.conv2 if isinstance(block, MBConv) else block.local_conv
            gate = SqueezeExcite(conv_norm.conv.out_channels, gate_layer=DoubleSigmoid)
            nn.init.zeros_(gate.fc2.weight)
            nn.init.zeros_(gate.fc2.bias)
            conv_norm.add_module("se", gate)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S), normalised, to embeddings (B, out_dim, S/16, S/16)."""
        # Convolutions are faster with channels last, and keep that layout.
        x = self.body.patch_embed(images.contiguous(memory_format=torch.channels_last))
        stages = self.body.stages
        recompute = self.recompute and torch.is_grad_enabled()
        return self.neck(checkpoint_seq(stages, x) if recompute else stages(x))

    def features(self, images: Tensor, levels: Sequence[Level]) -> dict[str, Tensor]:
        """Return features to distil from, by `level_name`: the embedding, and outputs of blocks.

        images: (B, 3, S, S), normalised. Each is (B, C, S/16, S/16), all from one pass.
        Raises ConfigError for a block of another stride.
        """
        for level in levels:
            if level != "neck" and level not in self.stride_16_blocks:
                first, last = self.stride_16_blocks[0], self.stride_16_blocks[-1]
                raise ConfigError(
                    f"distill_feature_level: block {level} has no features of stride 16; "
                    f"take one of {first} to {last}, or 'neck'"
                )
        return features_of_blocks(self.blocks, levels, lambda: self(images))
