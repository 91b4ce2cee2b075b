"""What a training step reads: images with the masks and prompts of some of their segments."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mobile_sam.data.index import Index, IndexedImage
from mobile_sam.data.masks import Mask
from mobile_sam.data.prompts import VALIDATION_PROMPTS, Prompt, random_prompt
from mobile_sam.data.records import RecordError, read_image
from mobile_sam.data.transforms import image_to_model_frame, mask_to_model_frame
from mobile_sam.frames import model_frame_size
from mobile_sam.options import Augment, Prompts


class Sample(NamedTuple):
    """One image in the model frame with P prompted segments; a batch stacks these.

    position: number of the image in its index.
    image: (3, S, S) normalised; valid: (S, S) bool, false on padding.
    masks: (P, S, S) bool; points: (P, 2, 2) xy pixels; labels: (P, 2).
    teacher: stored features (C, S/16, S/16) by level, none where none are read; float16.
    """

    position: Tensor
    image: Tensor
    valid: Tensor
    masks: Tensor
    points: Tensor
    labels: Tensor
    teacher: dict[str, Tensor]

    def to(self, device: torch.device) -> "Sample":
        """The same on another device."""
        teacher = {level: features.to(device) for level, features in self.teacher.items()}
        fields = {name: getattr(self, name) for name in self._fields if name != "teacher"}
        return Sample(**{n: value.to(device) for n, value in fields.items()}, teacher=teacher)


def collate(samples: list[Sample]) -> Sample:
    """A batch: every field gets a first dimension."""
    # In a worker it stacks in shared memory, which saves a copy of the teacher's features.
    return default_collate(samples)


class TrainingSet(Dataset[Sample]):
    """Random segments and prompts of each image; a function of (seed, epoch, position) alone.

    objects_per_image: P. An image with fewer segments repeats them with other prompts.
    read_features: gives the stored teacher features (C, S/16, S/16) of a view of an image, by
        level.
    """

    def __init__(
        self,
        index: Index,
        img_size: int,
        objects_per_image: int,
        prompts: Prompts,
        augment: Augment,
        seed: int,
        read_features: Callable[[IndexedImage, str], dict[str, Tensor]] | None = None,
    ) -> None:
        self.index = index
        self.img_size = img_size
        self.objects_per_image = objects_per_image
        self.prompts = prompts
        self.augment = augment
        self.seed = seed
        self.read_features = read_features
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Sample:
        rng = np.random.default_rng([self.seed, self.epoch, position])
        record = self.index[position]
        pixels = _read_unchanged(record)
        chosen = _repeat(rng.permutation(len(record.segments)), self.objects_per_image)
        masks = {int(i): record.mask(record.segments[i]) for i in set(chosen.tolist())}
        if self.augment.flip and rng.random() < 0.5:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
            masks = {i: np.ascontiguousarray(mask[:, ::-1]) for i, mask in masks.items()}
        if self.augment.brightness:
            factor = 1 + self.augment.brightness * rng.uniform(-1, 1)
            pixels = np.clip(pixels * factor, 0, 255).astype(np.uint8)
        frames = {i: _visible_in_model_frame(mask, self.img_size) for i, mask in masks.items()}
        share = self.prompts.box / (self.prompts.box + self.prompts.point or 1)
        prompts = [
            random_prompt(frames[int(i)], share, self.prompts.box_jitter, rng) for i in chosen
        ]
        teacher = {} if self.read_features is None else self.read_features(record, "identity")
        segments = [frames[int(i)] for i in chosen]
        return _sample(position, pixels, self.img_size, segments, prompts, teacher)


class ValidationSet(Dataset[Sample]):
    """The first `num_images` images with fixed prompts: each segment by box, then by point.

    An image shows its first `objects_per_image` segments, repeated where it has fewer.
    """

    def __init__(
        self, index: Index, img_size: int, objects_per_image: int, num_images: int
    ) -> None:
        self.index = index
        self.img_size = img_size
        self.objects_per_image = objects_per_image
        self.num_images = min(num_images, len(index))

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, position: int) -> Sample:
        record = self.index[position]
        chosen = _repeat(np.arange(len(record.segments)), self.objects_per_image)
        frames = [
            _visible_in_model_frame(record.mask(record.segments[i]), self.img_size) for i in chosen
        ]
        prompts = [kind(frame) for kind in VALIDATION_PROMPTS.values() for frame in frames]
        masks = frames * len(VALIDATION_PROMPTS)
        return _sample(position, _read_unchanged(record), self.img_size, masks, prompts, {})


def _read_unchanged(record: IndexedImage) -> NDArray[np.uint8]:
    pixels = read_image(record.path)
    if pixels.shape[:2] != record.size:
        raise RecordError(
            f"{record.path}: the image changed since it was indexed; run `index` again"
        )
    return pixels


def _repeat(order: np.ndarray, count: int) -> np.ndarray:
    return np.resize(order, count)


def _visible_in_model_frame(mask: Mask, img_size: int) -> Mask:
    """The mask (S, S) in the model frame; a segment too small to be seen keeps one pixel."""
    frame = mask_to_model_frame(mask, img_size)
    if not frame.any():
        height, width = model_frame_size(mask.shape, img_size)
        ys, xs = np.nonzero(mask)
        y = min(int(ys.mean() * height / mask.shape[0]), height - 1)
        x = min(int(xs.mean() * width / mask.shape[1]), width - 1)
        frame[y, x] = True
    return frame


def _sample(
    position: int,
    pixels: np.ndarray,
    img_size: int,
    masks: list[Mask],
    prompts: list[Prompt],
    teacher: dict[str, Tensor],
) -> Sample:
    valid = torch.zeros(img_size, img_size, dtype=torch.bool)
    height, width = model_frame_size(pixels.shape[:2], img_size)
    valid[:height, :width] = True
    return Sample(
        position=torch.tensor(position),
        image=image_to_model_frame(pixels, img_size),
        valid=valid,
        masks=torch.from_numpy(np.stack(masks)),
        points=torch.from_numpy(np.stack([prompt.points for prompt in prompts])),
        labels=torch.from_numpy(np.stack([prompt.labels for prompt in prompts])),
        teacher=teacher,
    )
