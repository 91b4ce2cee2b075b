"""MobileSAM's image encoder: timm's TinyViT with SAM's neck.

TinyViT: Wu et al., arXiv:2207.10666; its use in SAM: Zhang et al., arXiv:2306.14289.
"""

from collections.abc import Sequence

import torch
from timm.layers import SqueezeExcite
from timm.models import checkpoint_seq
from timm.models.tiny_vit import Attention, MBConv, TinyVit, TinyVitBlock
from torch import Tensor, nn

from mobile_sam.config import ConfigError
from mobile_sam.models.neck import Neck, features_of_blocks
from mobile_sam.options import Level


class UncachedAttention(Attention):
    """timm's attention without its cache of biases.

    In eval mode the cache keeps the biases of before a `load_state_dict`, breaks a second
    backward, and hides the biases from the gradient after a forward under `no_grad`.
    """

    def get_attention_biases(self, device: torch.device) -> Tensor:
        return self.attention_biases[:, self.attention_bias_idxs]


class DoubleSigmoid(nn.Module):
    """A gate in (0, 2) that is exactly 1, with a slope, where its input is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(x)


class TinyViTEncoder(nn.Module):
    """Images to embeddings of stride 16.

    embed_dims, depths, num_heads, window_sizes: one value for each of the four stages; the last
    stage keeps the stride of the third.
    out_dim: channels of the embedding.
    squeeze_excite: adds gates that leave a plain model's output unchanged until trained.
    recompute: whether stages keep only their input for the gradient, and are computed again.
    """

    recompute = False

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_sizes: Sequence[int],
        out_dim: int = 256,
        squeeze_excite: bool = False,
    ) -> None:
        super().__init__()
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
        """images: (B, 3, S, S), normalised. Returns image_embedding (B, out_dim, S/16, S/16)."""
        # Convolutions are faster with channels last, and hand that layout on.
        x = self.body.patch_embed(images.contiguous(memory_format=torch.channels_last))
        stages = self.body.stages
        again = self.recompute and torch.is_grad_enabled()
        return self.neck(checkpoint_seq(stages, x) if again else stages(x))

    def features(self, images: Tensor, levels: Sequence[Level]) -> dict[str, Tensor]:
        """Features to distil from, by `level_name`: the embedding, and outputs of blocks.

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
