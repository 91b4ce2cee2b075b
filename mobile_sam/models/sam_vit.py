"""SAM's image encoder: timm's ViT with windowed attention and relative positions.

Li et al., arXiv:2203.16527; its use in SAM: Kirillov et al., arXiv:2304.02643.
"""

from collections.abc import Sequence
from functools import partial

from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from mobile_sam.config.sections import Level, level_name
from mobile_sam.models import original_names
from mobile_sam.models.neck import features_of_blocks
from mobile_sam.system.errors import ConfigError

PUBLISHED_SIZE = 1024  # pixels


class SamViTEncoder(nn.Module):
    """Image encoder: from images to embeddings of stride 16.

    Position embeddings have the published size, for 1024 pixels, and are interpolated for images
    of other sizes at each pass, so weights of all sizes are interchangeable.
    global_blocks: numbers of the blocks that attend to the whole image.
    """

    original_names = original_names.SAM_VIT

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        global_blocks: Sequence[int],
        out_dim: int = 256,
    ) -> None:
        super().__init__()
        self.body = VisionTransformerSAM(
            img_size=PUBLISHED_SIZE,
            embed_dim=width,
            depth=depth,
            num_heads=num_heads,
            global_attn_indexes=tuple(global_blocks),
            use_rel_pos=True,
            num_classes=0,
            global_pool="",
            neck_chans=out_dim,
            # SAM was trained with 1e-6; timm's registered models use 1e-5.
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S), normalised, to embeddings (B, out_dim, S/16, S/16)."""
        return self.body.forward_features(images)

    def features(self, images: Tensor, levels: Sequence[Level]) -> dict[str, Tensor]:
        """Return features to distil from, by `level_name`: the embedding, and outputs of blocks.

        images: (B, 3, S, S), normalised. Each is (B, C, S/16, S/16), all from one pass.
        Raises ConfigError for a block that does not exist.
        """
        depth = len(self.body.blocks)
        blocks = [level for level in levels if level != "neck"]
        for level in blocks:
            if level >= depth:
                raise ConfigError(
                    f"distill_feature_level: there is no block {level}; "
                    f"take one of 0 to {depth - 1}, or 'neck'"
                )
        if "neck" in levels:
            return features_of_blocks(self.body.blocks, levels, lambda: self(images))
        outputs = self.body.forward_intermediates(
            images, indices=blocks, stop_early=True, intermediates_only=True
        )
        by_block = dict(zip(sorted(blocks), outputs, strict=True))
        return {level_name(level): by_block[level] for level in blocks}
