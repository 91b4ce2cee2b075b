"""Images as the teacher sees them: read, resized and padded ahead of their use."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mobile_sam.config.sections import View
from mobile_sam.data.images import read_verified
from mobile_sam.data.index.table import ConcatIndex, Index
from mobile_sam.data.transforms import normalise, pad_to_frame, resize_image
from mobile_sam.extraction.threads import read_ahead
from mobile_sam.features.identity import Identity
from mobile_sam.system.process import loader_options

_BATCHES_AHEAD = 2


class Frames(NamedTuple):
    """Views of an image in the model frame, or of a batch of images.

    pixels: (..., V, 3, S, S) uint8, 0 on padding. sizes: (..., V, 2), H and W of what is none.
    """

    pixels: Tensor
    sizes: Tensor

    def on(self, device: torch.device) -> Tensor:
        """The frames on a device, (..., V, 3, S, S) normalised."""
        pixels, sizes = (tensor.to(device, non_blocking=True) for tensor in self)
        return normalise(pixels, sizes)


class TeacherImages(Dataset[Frames]):
    """Images of an index as the views that are asked for.

    Raises RecordError for an image that is no longer the one of the index, because its features are
    found by the digest that it had.
    """

    def __init__(self, index: Index | ConcatIndex, img_size: int, views: Sequence[View]) -> None:
        self.index, self.img_size, self.views = index, img_size, views

    def __getitem__(self, position: int) -> Frames:
        record = self.index[position]
        pixels = read_verified(record.path, record.options, record.digest)
        views = [resize_image(make_view(pixels, view), self.img_size) for view in self.views]
        frames = [pad_to_frame(view, self.img_size) for view in views]
        return Frames(torch.stack(frames), torch.tensor([view.shape[:2] for view in views]))


def make_view(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """A view of an image (H, W, 3), before it is resized and padded."""
    return np.ascontiguousarray(pixels[:, ::-1]) if view == "hflip" else pixels


def load_batches(
    index: Index | ConcatIndex,
    content: Identity,
    batches: list[list[int]],
    num_workers: int,
    device: torch.device,
) -> Iterator[Frames]:
    """Batches by positions in the index, read ahead of their use.

    content: of the store that they are for, which says the image size and the views.
    """
    loader = DataLoader(
        TeacherImages(index, content["img_size"], content["views"]),
        batch_sampler=batches,
        pin_memory=device.type == "cuda",
        **loader_options(num_workers),
    )
    # Workers read ahead by themselves; without any, a thread does it in their place.
    return iter(loader) if num_workers else read_ahead(loader, _BATCHES_AHEAD)
