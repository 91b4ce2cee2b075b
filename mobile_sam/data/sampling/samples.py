"""An image in the model frame with the prompts of some of its segments, and batches of these."""

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
    """One image in the model frame with P prompted segments; a batch stacks these.

    position: number of the image in its data set.
    image: (3, S, S) RGB, uint8, 0 on padding; encoders take it `normalise`.
    size: (2,) H and W in pixels of the part of the model frame that is no padding.
    valid: (S, S) bool, false on padding, and where it is not known what the image shows.
    masks: (P, S, S) bool; points: (P, T, 2) xy pixels; labels: (P, T).
    teacher: stored features (C, S/16, S/16) by level, none where none are read; float16.
    embedding: of the image (C, S/16, S/16), float16; then `image` is (0,). Else (0,).
    mask_prompts: low_res_logits (P, 1, S/4, S/4), or (0,) without mask prompts.
    has_mask: (P,) bool, which of mask_prompts count; (0,) without.
    seed: of what is random after reading, a function of (seed, epoch, position).
    labelled: bool, whether `masks` are the truth; else they are empty and only teachers count.
    per_labelled: images of the optimiser's step for each that is labelled; training sets it.
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
        """The same on another device; from pinned memory the copy is not waited for."""

        def moved(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value.to(device, non_blocking=True) for name, value in values.items()}

        fields = self._asdict()
        teacher = moved(fields.pop("teacher"))
        return Sample(**moved(fields), teacher=teacher)

    def normalised(self) -> Tensor:
        """The images of a batch as encoders take them, (B, 3, S, S) float32."""
        return normalise(self.image, self.size)

    def rows(self, numbers: Tensor) -> "Sample":
        """Return these images of a batch."""
        teacher = {level: features[numbers] for level, features in self.teacher.items()}
        fields = {name: getattr(self, name) for name in self._fields if name != "teacher"}
        # What is not there has no rows.
        some = {name: value[numbers] if value.numel() else value for name, value in fields.items()}
        return Sample(**some, teacher=teacher)


def collate(samples: list[Sample]) -> Sample:
    """A batch: every field gets a first dimension."""
    # In a worker it stacks in shared memory, which saves a copy of the teacher's features.
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
    """The sample of one image; without masks, which then are empty, it is not labelled.

    image, size, teacher: as in `Sample`; valid and each of the masks (S, S). Prompts have equal
    numbers of points.
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
    """The sample with the masks of its prompts, where they have any."""
    nothing = np.zeros([side // 4 for side in sample.valid.shape], dtype=np.float32)
    masks = [nothing if prompt.mask is None else prompt.mask for prompt in prompts]
    return sample._replace(
        mask_prompts=torch.from_numpy(np.stack(masks))[:, None],
        has_mask=torch.tensor([prompt.mask is not None for prompt in prompts]),
    )


def nonempty_mask_frame(mask: Mask, img_size: int, longest: int | None = None) -> Mask:
    """The mask (S, S) in the model frame; a segment too small to be seen keeps one pixel.

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

    masks: segments in the model frame, which stay valid where both cover half of a pixel.
    """
    height, width = model_frame_size(geometry.size, geometry.longest)
    valid = np.zeros((img_size, img_size), dtype=bool)
    valid[:height, :width] = True
    if record.ignored:
        shown = geometry.apply(record.unknown())
        valid &= ~mask_to_model_frame(shown, img_size, geometry.longest)
        for mask in masks:
            valid |= mask
    return valid
