"""Samples: an image in the model frame with prompts of some of its segments; and batches."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from mobile_sam.coordinates import model_frame_size
from mobile_sam.data.index.table import IndexedImage
from mobile_sam.data.masks import Mask
from mobile_sam.data.sampling.augment import Geometry
from mobile_sam.data.sampling.prompts import Prompt
from mobile_sam.data.transforms import mask_to_model_frame, normalise


class Sample(NamedTuple):
    """One image in the model frame with P prompted segments; a batch stacks several.

    position: number of the image in its data set.
    image: (3, S, S) RGB, uint8, 0 on padding; `normalised` gives the input of encoders.
    size: (2,) H and W in pixels of the image within the model frame, without padding.
    valid: (S, S) bool, false on padding and on ignored pixels.
    masks: (P, S, S) bool; points: (P, T, 2) xy pixels; labels: (P, T).
    teacher: stored features (C, S/16, S/16) by level, float16; empty if none are read.
    embedding: stored image embedding (C, S/16, S/16), float16, and `image` is (0,); or (0,).
    mask_prompts: low_res_logits (P, 1, S/4, S/4), or (0,) without mask prompts.
    has_mask: (P,) bool, which prompts have a mask; or (0,) without mask prompts.
    seed: seed of random choices after loading, a function of (seed, epoch, position).
    labelled: bool, whether `masks` are the truth; otherwise they are empty, and only losses to
        teachers apply.
    per_labelled: ratio of all to labelled images in the optimiser step; training sets it.
    """

    position: Tensor
    image: Tensor
    size: Tensor
    valid: Tensor
    masks: Tensor
    points: Tensor
    labels: Tensor
    teacher: dict[str, Tensor]
    embedding: Tensor = torch.empty(0)
    mask_prompts: Tensor = torch.empty(0)
    has_mask: Tensor = torch.empty(0)
    seed: Tensor = torch.tensor(0)
    labelled: Tensor = torch.tensor(True)
    per_labelled: Tensor = torch.tensor(1.0)

    def to(self, device: torch.device) -> "Sample":
        """Copy the sample to a device; from pinned memory, the copy is asynchronous."""

        def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}

        fields = self._asdict()
        teacher = copies(fields.pop("teacher"))
        return Sample(**copies(fields), teacher=teacher)

    def normalised(self) -> Tensor:
        """Return the images of a batch as encoders take them, (B, 3, S, S) float32."""
        return normalise(self.image, self.size)

    def rows(self, numbers: Tensor) -> "Sample":
        """Return these images of a batch."""
        teacher = {level: features[numbers] for level, features in self.teacher.items()}
        fields = {name: getattr(self, name) for name in self._fields if name != "teacher"}
        # Absent fields are empty, and stay so.
        rows = {name: value[numbers] if value.numel() else value for name, value in fields.items()}
        return Sample(**rows, teacher=teacher)


def collate(samples: list[Sample]) -> Sample:
    """Stack samples into a batch; every field gets a first dimension."""
    # In a worker, default_collate stacks in shared memory, which saves a copy of the features.
    return default_collate(samples)


def make_sample(
    position: int,
    image: Tensor,
    size: tuple[int, int],
    valid: Mask,
    masks: list[Mask],
    prompts: list[Prompt],
    teacher: dict[str, Tensor],
) -> Sample:
    """Return the sample of one image; without masks, it is unlabelled and its masks are empty.

    image, size, teacher: as in `Sample`; valid and each of the masks (S, S). All prompts have the
    same number of points.
    """
    truth = np.stack(masks) if masks else np.zeros((len(prompts), *valid.shape), dtype=bool)
    return Sample(
        position=torch.tensor(position),
        image=image,
        size=torch.tensor(size),
        valid=torch.from_numpy(valid),
        masks=torch.from_numpy(truth),
        points=torch.from_numpy(np.stack([prompt.points for prompt in prompts])),
        labels=torch.from_numpy(np.stack([prompt.labels for prompt in prompts])),
        teacher=teacher,
        labelled=torch.tensor(bool(masks)),
    )


def with_mask_prompts(sample: Sample, prompts: list[Prompt]) -> Sample:
    """Add the masks of the prompts to a sample; zeros for prompts without a mask."""
    zeros = np.zeros([side // 4 for side in sample.valid.shape], dtype=np.float32)
    masks = [zeros if prompt.mask is None else prompt.mask for prompt in prompts]
    return sample._replace(
        mask_prompts=torch.from_numpy(np.stack(masks))[:, None],
        has_mask=torch.tensor([prompt.mask is not None for prompt in prompts]),
    )


def nonempty_mask_frame(mask: Mask, img_size: int, longest: int | None = None) -> Mask:
    """Convert a mask to the model frame (S, S); a segment that would vanish keeps one pixel.

    longest: as in `mask_to_model_frame`.
    """
    frame = mask_to_model_frame(mask, img_size, longest)
    if not frame.any():
        height, width = model_frame_size(mask.shape, longest or img_size)
        ys, xs = np.nonzero(mask)
        y = min(int(ys.mean() * height / mask.shape[0]), height - 1)
        x = min(int(xs.mean() * width / mask.shape[1]), width - 1)
        frame[y, x] = True
    return frame


def valid_mask_frame(
    record: IndexedImage, geometry: Geometry, img_size: int, masks: list[Mask]
) -> Mask:
    """Return the pixels (S, S) of the model frame that show the image and are not ignored.

    masks: segments in the model frame. Pixels of a segment stay valid, even where an ignored region
    covers half of the pixel.
    """
    height, width = model_frame_size(geometry.size, geometry.longest)
    valid = np.zeros((img_size, img_size), dtype=bool)
    valid[:height, :width] = True
    if record.ignored:
        unknown = geometry.apply(record.unknown())
        valid &= ~mask_to_model_frame(unknown, img_size, geometry.longest)
        for mask in masks:
            valid |= mask
    return valid
