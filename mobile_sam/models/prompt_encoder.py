"""SAM's prompt encoder: points, box corners and masks to tokens (arXiv:2304.02643, section 3)."""

import math

import torch
from torch import Tensor, nn

from mobile_sam.models.neck import LayerNorm2d

# Labels of prompt points. A box is its two corners; a lone point is followed by a padding point,
# which has a learned token of its own. An absent point fills up a batch and is not looked at.
ABSENT = -2
PADDING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3


class RandomPositions(nn.Module):
    """Random Fourier features of positions in the unit square (arXiv:2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, positions: Tensor) -> Tensor:
        """positions: (..., 2) xy in [0, 1]. Returns (..., 2 * features)."""
        matrix = self.positional_encoding_gaussian_matrix
        projected = (2 * positions.to(matrix.dtype) - 1) @ matrix
        projected = 2 * math.pi * projected
        return torch.cat([projected.sin(), projected.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Prompts to tokens and a dense map.

    embed_dim: channels of tokens and maps.
    img_size: side of the model frame in pixels.
    mask_channels: hidden width of the mask branch.
    """

    def __init__(self, embed_dim: int, img_size: int, mask_channels: int = 16) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.img_size = img_size
        self.pe_layer = RandomPositions(embed_dim // 2)
        # Background point, foreground point, top left corner, bottom right corner.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    @property
    def grid_size(self) -> int:
        """Side of the image embedding, in cells of 16 pixels."""
        return self.img_size // 16

    def dense_positions(self) -> Tensor:
        """Position encoding of the image embedding, (1, C, S/16, S/16)."""
        side = self.grid_size
        centres = (torch.arange(side, device=self.no_mask_embed.weight.device) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.pe_layer(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]

    def as_points(
        self,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Points (N, T, 2) and labels (N, T) of N prompts as the original takes them.

        points: (N, P, 2) xy and labels: (N, P), both or neither; boxes: (N, 4) xyxy; pixels of the
        model frame. masks: (N, 1, S/4, S/4), for their number alone.
        The points come first, then the corners of the box, or without one a padding point.
        """
        device = self.no_mask_embed.weight.device
        places: list[Tensor] = []
        kinds: list[Tensor] = []
        if points is not None and labels is not None:
            places, kinds = [points], [labels.long()]
            if boxes is None:
                places.append(points.new_zeros(len(points), 1, 2))
                kinds.append(labels.new_full((len(points), 1), PADDING).long())
        if boxes is not None:
            places.append(boxes.reshape(-1, 2, 2))
            corners = torch.tensor([TOP_LEFT, BOTTOM_RIGHT], device=device)
            kinds.append(corners.expand(len(places[-1]), 2))
        if not places:
            count = 1 if masks is None else len(masks)
            places = [torch.zeros(count, 0, 2, device=device)]
            kinds = [torch.zeros(count, 0, dtype=torch.long, device=device)]
        return torch.cat(places, dim=1), torch.cat(kinds, dim=1)

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Tokens (N, T, C) of points (N, T, 2), xy pixels of the model frame, labels (N, T).

        The token of an ABSENT point means nothing.
        """
        # SAM places a point at the centre of its pixel.
        positions = self.pe_layer((points + 0.5) / self.img_size)
        table = torch.cat(
            [embedding.weight for embedding in (self.not_a_point_embed, *self.point_embeddings)]
        )
        kinds = table[labels.clamp(min=PADDING) + 1]
        return torch.where((labels == PADDING)[..., None], kinds, positions + kinds)

    def embed_masks(self, masks: Tensor) -> Tensor:
        """Dense maps (N, C, S/16, S/16) of low_res_logits (N, 1, S/4, S/4)."""
        return self.mask_downscaling(masks)

    def no_mask(self) -> Tensor:
        """The dense map that stands for no mask, (1, C, S/16, S/16)."""
        side = self.grid_size
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(-1, -1, side, side)

    def forward(
        self,
        points: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sparse tokens (N, T, C) and the dense map (N or 1, C, S/16, S/16) of N prompts.

        has_mask: (N,) bool, the prompts whose row of `masks` counts; None for all.
        """
        dense = self.no_mask() if masks is None else self.embed_masks(masks)
        if masks is not None and has_mask is not None:
            dense = torch.where(has_mask[:, None, None, None], dense, self.no_mask())
        return self.embed_points(points, labels), dense
