"""Images as the teacher sees them: read, resized and padded ahead of their use."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobile_sam.data.images import read_image
from mobile_sam.data.index import Index
from mobile_sam.data.joined import Joined
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.extraction.background import read_ahead
from mobile_sam.features.identity import Identity
from mobile_sam.options import View
from mobile_sam.process import workers

_BATCHES_AHEAD = 2


class Images(Dataset[Tensor]):
    """Views of images in the model frame, (V, 3, S, S) for each."""

    def __init__(self, index: Index | Joined, img_size: int, views: Sequence[View]) -> None:
        self.index, self.img_size, self.views = index, img_size, views

    def __getitem__(self, position: int) -> Tensor:
        pixels = read_image(self.index[position].path)
        frames = [image_to_model_frame(see(pixels, v), self.img_size) for v in self.views]
        return torch.stack(frames)


def see(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """A view of an image (H, W, 3), before it is resized and padded."""
    return np.ascontiguousarray(pixels[:, ::-1]) if view == "hflip" else pixels


def loaded(
    index: Index | Joined,
    content: Identity,
    batches: list[list[int]],
    num_workers: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """Batches (B, V, 3, S, S) by positions in the index, read ahead of their use.

    content: of the store that they are for, which says the image size and the views.
    """
    loader = DataLoader(
        Images(index, content["img_size"], content["views"]),
        batch_sampler=batches,
        pin_memory=device.type == "cuda",
        **workers(num_workers),
    )
    # Workers read ahead by themselves; without any, a thread does it in their place.
    return iter(loader) if num_workers else read_ahead(loader, _BATCHES_AHEAD)
