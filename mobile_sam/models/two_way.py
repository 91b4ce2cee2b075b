"""The two-way transformer of SAM's mask decoder (arXiv:2304.02643, figure 14)."""

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

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """queries: (N, T, dim); keys, values: (N, U, dim). Returns (N, T, dim).

        present: (N, U) bool, the keys that are looked at; None for all.
        """
        attended = F.scaled_dot_product_attention(
            self._heads(self.q_proj(queries)),
            self._heads(self.k_proj(keys)),
            self._heads(self.v_proj(values)),
            attn_mask=None if present is None else present[:, None, None],
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class TokenMLP(nn.Module):
    """Two layers on each token."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image attends to the tokens."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.self_attn = DownsamplingAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = DownsamplingAttention(dim, num_heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TokenMLP(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = DownsamplingAttention(dim, num_heads, downsample=2)
        self.first = first

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_positions: Tensor,
        image_positions: Tensor,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """tokens, token_positions: (N, T, C); image, image_positions: (N, h*w, C).

        present: (N, T) bool, the tokens that are looked at; None for all.
        """
        if self.first:  # the tokens are still their own positions, and nothing to add them to
            tokens = self.self_attn(tokens, tokens, tokens, present)
        else:
            queries = tokens + token_positions
            tokens = tokens + self.self_attn(queries, queries, tokens, present)
        tokens = self.norm1(tokens)

        queries, keys = tokens + token_positions, image + image_positions
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(queries, keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))

        queries = tokens + token_positions
        image = self.norm4(image + self.cross_attn_image_to_token(keys, queries, tokens, present))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Blocks of two-way attention, and a last look of the tokens at the image."""

    def __init__(self, depth: int, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, num_heads, mlp_dim, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = DownsamplingAttention(dim, num_heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self,
        image: Tensor,
        image_positions: Tensor,
        tokens: Tensor,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """image, image_positions: (N, h*w, C); tokens: (N, T, C). Returns both, transformed.

        present: (N, T) bool, the tokens that are looked at; None for all.
        """
        token_positions = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_positions, image_positions, present)
        queries, keys = tokens + token_positions, image + image_positions
        tokens = self.norm_final_attn(tokens + self.final_attn_token_to_image(queries, keys, image))
        return tokens, image
