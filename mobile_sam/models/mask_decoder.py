"""SAM's mask decoder: from tokens and an image embedding to masks and their predicted IoU.

Kirillov et al., arXiv:2304.02643, appendix A.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobile_sam.models.two_way import TwoWayTransformer, add_to_shared

NUM_MASKS = 4
# Masks to predict: the one for clear prompts, the three for ambiguous prompts, or all.
SINGLE, MULTI, ALL = range(1), range(1, NUM_MASKS), range(NUM_MASKS)


class Decoded(NamedTuple):
    """M masks of each of N prompts.

    low_res_logits: (N, M, S/4, S/4). predicted_iou: (N, M).
    mask_tokens: (N, M, C), the transformer's output for the tokens of these masks.
    """

    low_res_logits: Tensor
    predicted_iou: Tensor
    mask_tokens: Tensor


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, depth: int) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class UpscaleByTwo(nn.Module):
    """Transposed convolution with kernel and stride 2, for tensors with channels last.

    Each pixel becomes four pixels: (..., C) to (..., 2, 2, C'), rows before columns.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.ConvTranspose2d(in_channels, out_channels, 2, 2).parameters()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2*2*C', C)
        return F.linear(x, weight, self.bias.repeat(4)).unflatten(-1, (2, 2, -1))


def in_place(pixels: Tensor, height: int, width: int) -> Tensor:
    """Rearrange pixels (N, M, h*w*16), ordered by cell, to maps (N, M, 4h, 4w)."""
    pixels = pixels.unflatten(-1, (height, width, 2, 2, 2, 2))
    return pixels.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5).flatten(2, 4)


class MaskDecoder(nn.Module):
    """Decoder of prompts on an image to masks; constructor and calls are those of the original.

    transformer_dim: channels of the image embedding and of tokens.
    num_multimask_outputs: masks for ambiguous prompts, 3.
    iou_head_depth, iou_head_hidden_dim: of the MLP that predicts IoU.
    """

    num_mask_tokens = NUM_MASKS

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: TwoWayTransformer,
        num_multimask_outputs: int = len(MULTI),
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        if num_multimask_outputs != len(MULTI):
            raise ValueError(f"num_multimask_outputs: {num_multimask_outputs}; it must be 3")
        dim = self.transformer_dim = transformer_dim
        self.num_multimask_outputs = num_multimask_outputs
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(NUM_MASKS, dim)
        self.output_upscaling = nn.Sequential(
            UpscaleByTwo(dim, dim // 4),
            nn.LayerNorm(dim // 4, eps=1e-6),
            nn.GELU(),
            UpscaleByTwo(dim // 4, dim // 8),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim // 8, depth=3) for _ in range(NUM_MASKS)
        )
        self.iou_prediction_head = MLP(dim, iou_head_hidden_dim, NUM_MASKS, iou_head_depth)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return low_res_logits (N, M, S/4, S/4) and predicted_iou (N, M), as the original does.

        Arguments are those of `decode`. multimask_output: three masks of each prompt, or one.
        """
        decoded = self.decode(
            image_embeddings,
            image_pe,
            sparse_prompt_embeddings,
            dense_prompt_embeddings,
            MULTI if multimask_output else SINGLE,
        )
        return decoded.low_res_logits, decoded.predicted_iou

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode all four masks of each prompt; otherwise as `forward`."""
        decoded = self.decode(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, ALL
        )
        return decoded.low_res_logits, decoded.predicted_iou

    def decode(
        self,
        image_embedding: Tensor,
        image_positions: Tensor,
        sparse: Tensor,
        dense: Tensor,
        outputs: range = SINGLE,
        present: Tensor | None = None,
    ) -> Decoded:
        """Decode N prompts on B images, N / B of them on each image, in the images' order.

        image_embedding: (B, C, S/16, S/16); image_positions: (1, C, S/16, S/16).
        sparse: (N, T, C); dense: (N or 1, C, S/16, S/16).
        outputs: the masks to predict. Hypernetworks of other masks are not part of the graph. The
        IoU head is one matrix for all masks; its rows for other masks get zero gradients.
        present: (N, T) bool, false where a prompt has fewer than T tokens; None: all have T.
        """
        prompts, images = sparse.shape[0], image_embedding.shape[0]
        if prompts % images:
            raise ValueError(f"{prompts} prompts cannot be divided evenly among {images} images")
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([output_tokens.expand(prompts, -1, -1), sparse], dim=1)

        if present is not None:  # the decoder's own tokens are always present
            present = F.pad(present, (len(output_tokens), 0), value=True)

        shared = dense.shape[0] == 1
        image = image_embedding + dense if shared else add_to_shared(image_embedding, dense)
        positions = image_positions.flatten(2).transpose(-2, -1)  # (1, h*w, C)
        cells = image.flatten(2).transpose(-2, -1).contiguous()  # (B or N, h*w, C)
        tokens, cells = self.transformer(cells, positions, tokens, present)

        mask_tokens = tokens[:, 1 : 1 + NUM_MASKS][:, outputs.start : outputs.stop]
        kernels = torch.stack(
            [
                self.output_hypernetworks_mlps[mask](token)
                for mask, token in zip(outputs, mask_tokens.unbind(1), strict=True)
            ],
            dim=1,
        )  # (N, M, C/8)
        pixels = self.output_upscaling(cells).flatten(1, -2)  # (N, h*w*16, C/8), cell after cell
        low_res_logits = in_place(kernels @ pixels.transpose(-2, -1), *image.shape[-2:])
        predicted_iou = self.iou_prediction_head(tokens[:, 0])[:, outputs.start : outputs.stop]
        return Decoded(low_res_logits, predicted_iou, mask_tokens)
