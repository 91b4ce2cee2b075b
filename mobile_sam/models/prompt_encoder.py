"""SAM's prompt encoder: points, box corners and masks to tokens (arXiv:2304.02643, section 3)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mobile_sam.models.neck import LayerNorm2d

# Labels of prompt points. A box is its two corners; a lone point is followed by a padding point,
# which has its own learned token. An absent point fills up a batch; no token attends to it.
ABSENT = -2
PADDING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
STRIDE = 16  # pixels of the model frame in a cell of the image embedding


class RandomPositions(nn.Module):
    """Random Fourier features of positions in the unit square (arXiv:2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, positions: Tensor) -> Tensor:
        """Encode positions (..., 2), xy in [0, 1], to (..., 2 * features), of the matrix's type.

        Computed in 32 bits at least: in 16, neighbouring pixels would have equal features.
        """
        matrix = self.positional_encoding_gaussian_matrix
        exact = torch.promote_types(matrix.dtype, torch.float32)
        # FLOPs are counted on the meta device, which has no autocast.
        kind = "cpu" if matrix.is_meta else matrix.device.type
        with torch.autocast(kind, enabled=False):
            projected = (2 * positions.to(exact) - 1) @ matrix.to(exact)
        projected = 2 * math.pi * projected
        return torch.cat([projected.sin(), projected.cos()], dim=-1).to(matrix.dtype)


class PromptEncoder(nn.Module):
    """Encoder of prompts to tokens and a dense map; constructor and calls are the original's.

    embed_dim: channels of tokens and maps.
    image_embedding_size: (S/16, S/16), in cells. input_image_size: (S, S), in pixels.
    mask_in_chans: hidden width of the mask branch.
    """

    num_point_embeddings = 4

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: Sequence[int],
        input_image_size: Sequence[int],
        mask_in_chans: int = 16,
    ) -> None:
        super().__init__()
        side, width = input_image_size
        if side != width or list(image_embedding_size) != [side // STRIDE] * 2:
            raise ValueError(
                f"input_image_size: {(side, width)}, image_embedding_size: "
                f"{tuple(image_embedding_size)}; give (S, S) and (S/16, S/16)"
            )
        self.embed_dim = embed_dim
        self.img_size = side
        self.input_image_size = side, side
        self.image_embedding_size = side // STRIDE, side // STRIDE
        self.mask_input_size = 4 * (side // STRIDE), 4 * (side // STRIDE)
        self.pe_layer = RandomPositions(embed_dim // 2)
        # Background point, foreground point, top left corner, bottom right corner.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            nn.GELU(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            nn.GELU(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    @property
    def grid_size(self) -> int:
        """Side of the image embedding, in cells of 16 pixels."""
        return self.image_embedding_size[0]

    def get_dense_pe(self) -> Tensor:
        """Return the position encoding of the image embedding, (1, C, S/16, S/16)."""
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
        """Convert N prompts of the original to points (N, T, 2) and labels (N, T).

        points: (N, P, 2) xy and labels: (N, P), both or neither; boxes: (N, 4) xyxy; pixels of the
        model frame. masks: (N, 1, S/4, S/4), of which only the number is used.
        The points come first, then the corners of the box, or without one a padding point.
        Raises ValueError for labels that do not exist, or that are not one per point.
        """
        device = self.no_mask_embed.weight.device
        places: list[Tensor] = []
        kinds: list[Tensor] = []
        if points is not None and labels is not None:
            check_labels(points, labels)
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
        """Embed points (N, T, 2), xy pixels of the model frame, with labels (N, T), to (N, T, C).

        The token of an ABSENT point has no meaning.
        """
        # SAM places a point at the centre of its pixel.
        positions = self.pe_layer((points + 0.5) / self.img_size)
        table = torch.cat(
            [embedding.weight for embedding in (self.not_a_point_embed, *self.point_embeddings)]
        )
        kinds = table[labels.clamp(min=PADDING) + 1]
        return torch.where((labels == PADDING)[..., None], kinds, positions + kinds)

    def embed_masks(self, masks: Tensor) -> Tensor:
        """Embed low_res_logits (N, 1, S/4, S/4) to dense maps (N, C, S/16, S/16)."""
        return self.mask_downscaling(masks.to(self.no_mask_embed.weight.dtype))

    def no_mask(self) -> Tensor:
        """Return the dense map that stands for no mask, (1, C, S/16, S/16)."""
        side = self.grid_size
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(-1, -1, side, side)

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return sparse tokens (N, T, C) and dense maps (N, C, S/16, S/16), as the original does.

        points: coordinates and labels; they, boxes and masks are those of `as_points`.
        """
        coords, labels = points or (None, None)
        sparse, dense = self.embed(*self.as_points(coords, labels, boxes, masks), masks)
        return sparse, dense.expand(len(sparse), -1, -1, -1)

    def embed(
        self,
        points: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed N prompts to sparse tokens (N, T, C) and a dense map (N or 1, C, S/16, S/16).

        has_mask: (N,) bool, the prompts whose row of `masks` counts; None for all.
        """
        dense = self.no_mask() if masks is None else self.embed_masks(masks)
        if masks is not None and has_mask is not None:
            dense = torch.where(has_mask[:, None, None, None], dense, self.no_mask())
        return self.embed_points(points, labels), dense


def check_labels(points: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless each of the points (N, T, 2) has a valid label."""
    if points.ndim != 3 or points.shape[2] != 2 or points.shape[:2] != labels.shape:
        raise ValueError(
            f"points: of shape {tuple(points.shape)}, labels: of shape {tuple(labels.shape)}; they "
            "must be (N, T, 2) and (N, T)"
        )
    unknown = labels[(labels < PADDING) | (labels > BOTTOM_RIGHT)]
    if len(unknown):
        raise ValueError(
            f"labels: {unknown[0].item():g} is not valid; 1 is foreground, 0 background, -1 no "
            "point, 2 and 3 the upper left and lower right corner of a box"
        )
