"""SAM's neck, and features of blocks, for all image encoders."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mobile_sam.config.sections import Level, level_name


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Neck(nn.Sequential):
    """Convolutions from backbone to embedding channels (SAM, arXiv:2304.02643, appendix A)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )


def features_of_blocks(
    blocks: Sequence[nn.Module], levels: Sequence[Level], run: Callable[[], Tensor]
) -> dict[str, Tensor]:
    """Compute features of several levels in one pass, by `level_name`, in the order of `levels`.

    run: runs the encoder of `blocks` once and returns the embedding.
    """
    features: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:  # (B, h, w, C)
        features[name] = output.permute(0, 3, 1, 2)

    handles = [
        blocks[level].register_forward_hook(
            lambda module, args, output, level=level: keep(level_name(level), output)
        )
        for level in levels
        if level != "neck"
    ]
    try:
        features["neck"] = run()
    finally:
        for handle in handles:
            handle.remove()
    return {level_name(level): features[level_name(level)] for level in levels}
