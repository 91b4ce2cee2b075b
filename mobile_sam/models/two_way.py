"""The two-way transformer of SAM's mask decoder (arXiv:2304.02643, figure 14).

There are N prompts of T tokens on B images of h*w cells, N / B prompts on each, in the images'
order. Until the first block changes them, cells are the same for all prompts of an image, and are
projected once. Later, a prompt's few tokens are projected into the space of its many cells instead
of the cells into that of the tokens: `q @ (cells @ W).T` is `(q @ W.T) @ cells.T`.
"""

# `transpose` instead of `mT`, which torch's older exporter of ONNX does not support.

from torch import Tensor, nn
from torch.nn import functional as F


class DownsamplingAttention(nn.Module):
    """Multi-head attention in a space of `dim / downsample` channels."""

    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        if inner % num_heads:
            raise ValueError(f"{num_heads} heads do not divide {inner} channels")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (N, heads, T, C/heads)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """Attend from queries (N, T, dim) to keys and values (N, U, dim). Returns (N, T, dim).

        present: (N, U) bool, the keys to attend to; None: all.
        """
        attended = F.scaled_dot_product_attention(
            self._heads(self.q_proj(queries)),
            self._heads(self.k_proj(keys)),
            self._heads(self.v_proj(values)),
            attn_mask=None if present is None else present[:, None, None],
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def scores(self, tokens: Tensor, cells: Tensor, projection: nn.Linear) -> Tensor:
        """Compute scaled products (N, heads, T, h*w) of tokens with projected cells.

        tokens: (N, heads, T, C/heads); cells: (B, h*w, dim).
        """
        tokens = tokens * tokens.shape[-1] ** -0.5
        if cells.shape[0] < tokens.shape[0]:
            projected = self._heads(projection(cells))[:, None]  # (B, 1, heads, h*w, C/heads)
            return (
                tokens.unflatten(0, (cells.shape[0], -1)) @ projected.transpose(-2, -1)
            ).flatten(0, 1)
        heads = (self.num_heads, -1)
        among_cells = tokens @ projection.weight.unflatten(0, heads)  # (N, heads, T, dim)
        products = (among_cells.flatten(1, 2) @ cells.transpose(-2, -1)).unflatten(1, heads)
        return products + tokens @ projection.bias.view(*heads, 1)


class SelfAttention(DownsamplingAttention):
    """Attention of tokens to each other."""

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """Attend among queries, keys and values, each (N, T, dim). Returns (N, T, dim).

        present: (N, T) bool, the tokens to attend to; None: all.
        """
        return self.attend(queries, keys, values, present)


class TokensToImage(DownsamplingAttention):
    """Attention of tokens to cells."""

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from tokens (N, T, dim) to keys and values (B, h*w, dim). Returns (N, T, dim)."""
        # Tokens are independent here: the prompts of an image are computed as one.
        if keys.shape[0] < queries.shape[0]:
            together = queries.reshape(keys.shape[0], -1, queries.shape[-1])
            return self.attend(together, keys, values).view_as(queries)
        heads = (self.num_heads, -1)
        weights = self.scores(self._heads(self.q_proj(queries)), keys, self.k_proj).softmax(-1)
        averages = (weights.flatten(1, 2) @ values).unflatten(1, heads)  # (N, heads, T, dim)
        attended = averages @ self.v_proj.weight.unflatten(0, heads).transpose(-2, -1)
        return self.out_proj(attended.transpose(1, 2).flatten(2) + self.v_proj.bias)


class ImageToTokens(DownsamplingAttention):
    """Attention of cells to tokens."""

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """Attend from cells (B, h*w, dim) to tokens (N, T, dim). Returns (N, h*w, dim).

        present: (N, T) bool, the tokens to attend to; None: all.
        """
        scores = self.scores(self._heads(self.k_proj(keys)), queries, self.q_proj)
        if present is not None:
            scores = scores.masked_fill(~present[:, None, :, None], float("-inf"))
        weights = scores.softmax(dim=2).flatten(1, 2)  # (N, heads*T, h*w)
        out_weight = self.out_proj.weight.transpose(-2, -1).unflatten(0, (self.num_heads, -1))
        among_cells = self._heads(self.v_proj(values)) @ out_weight  # (N, heads, T, dim)
        return weights.transpose(-2, -1) @ among_cells.flatten(1, 2) + self.out_proj.bias


def add_to_shared(shared: Tensor, own: Tensor) -> Tensor:
    """Add values that prompts of an image share, (B, ...), to their own values, (N, ...)."""
    return (shared[:, None] + own.unflatten(0, (shared.shape[0], -1))).flatten(0, 1)


class TokenMLP(nn.Module):
    """MLP of two layers for each token."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Block in which tokens attend to themselves and the image, then the image to the tokens."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = TokensToImage(dim, num_heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TokenMLP(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = ImageToTokens(dim, num_heads, downsample=2)
        self.first = first

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_positions: Tensor,
        image_positions: Tensor,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update tokens and image.

        tokens, token_positions: (N, T, C); image: (B, h*w, C); image_positions: (1, h*w, C).
        present: (N, T) bool, the tokens to attend to; None: all.
        Returns tokens (N, T, C) and the image (N, h*w, C) as each prompt changes it.
        """
        if self.first:  # tokens and their positions are still the same; without a residual
            tokens = self.self_attn(tokens, tokens, tokens, present)
        else:
            queries = tokens + token_positions
            tokens = tokens + self.self_attn(queries, queries, tokens, present)
        tokens = self.norm1(tokens)

        queries, keys = tokens + token_positions, image + image_positions
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(queries, keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))

        queries = tokens + token_positions
        update = self.cross_attn_image_to_token(keys, queries, tokens, present)
        return tokens, self.norm4(add_to_shared(image, update))


class TwoWayTransformer(nn.Module):
    """Blocks of two-way attention, and a final attention of tokens to the image."""

    def __init__(self, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(embedding_dim, num_heads, mlp_dim, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = TokensToImage(embedding_dim, num_heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(
        self,
        image: Tensor,
        image_positions: Tensor,
        tokens: Tensor,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update tokens and image in all blocks.

        image: (B, h*w, C); image_positions: (1, h*w, C); tokens: (N, T, C).
        present: (N, T) bool, the tokens to attend to; None: all.
        Returns tokens (N, T, C) and the image (N, h*w, C) as each prompt changes it.
        """
        token_positions = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_positions, image_positions, present)
        queries, keys = tokens + token_positions, image + image_positions
        tokens = self.norm_final_attn(tokens + self.final_attn_token_to_image(queries, keys, image))
        return tokens, image
