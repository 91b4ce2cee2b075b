"""What a training step reads: images with the masks and prompts of some of their segments."""

from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mobile_sam.data.augment import Geometry, recoloured, rescaled, whole
from mobile_sam.data.index import Index, IndexedImage, read_unchanged
from mobile_sam.data.joined import Joined
from mobile_sam.data.masks import Mask
from mobile_sam.data.prompts import (
    VALIDATION_PROMPTS,
    Prompt,
    Target,
    prompt_anywhere,
    random_prompt,
)
from mobile_sam.data.samples import (
    Sample,
    collate,
    sample_of,
    valid_frame,
    visible_frame,
    with_mask_prompts,
)
from mobile_sam.data.transforms import image_to_model_frame
from mobile_sam.frames import model_frame_size
from mobile_sam.options import Augment, Prompts

__all__ = ["Sample", "TrainingSet", "ValidationSet", "collate"]


class TrainingSet(Dataset[Sample]):
    """Random segments and prompts of each image; a function of (seed, epoch, position) alone.

    unlabelled: images without masks, whose positions come after those of `index`. Their prompts
        point anywhere.
    objects_per_image: P. An image with fewer segments repeats them with other prompts.
    read_features: gives the stored teacher features (C, S/16, S/16) by level, of an image as it is
        ("identity") or mirrored left-right ("hflip").
    read_embedding: of a frozen encoder (C, S/16, S/16), in place of the image; fits images that
        nothing changes.
    """

    read_embedding: Callable[[IndexedImage], Tensor] | None = None

    def __init__(
        self,
        index: Index,
        img_size: int,
        objects_per_image: int,
        prompts: Prompts,
        augment: Augment,
        seed: int,
        read_features: Callable[[IndexedImage, str], dict[str, Tensor]] | None = None,
        unlabelled: Index | None = None,
    ) -> None:
        self.images = Joined([index] if unlabelled is None else [index, unlabelled])
        self.img_size = img_size
        self.objects_per_image = objects_per_image
        self.prompts = prompts
        self.augment = augment
        self.seed = seed
        self.read_features = read_features
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images)

    def record(self, position: int) -> IndexedImage:
        """The image at a position, with or without masks."""
        return self.images[position]

    def __getitem__(self, position: int) -> Sample:
        rng = np.random.default_rng([self.seed, self.epoch, position])
        record = self.record(position)
        order = rng.permutation(len(record.segments))
        mirrored = self.augment.flip and rng.random() < 0.5
        geometry, masks = self._shown(position, record, order, mirrored)
        image = self._image(position, record, geometry, rng)
        frames = [visible_frame(mask, self.img_size, geometry.longest) for mask in masks]
        valid = valid_frame(record, geometry, self.img_size, frames)
        frames, prompts = self._prompted(frames, geometry, valid, rng)
        teacher = self._teacher_features(record, geometry.view)
        sample = sample_of(position, image, valid, frames, prompts, teacher)
        seed = self._stream(position, "clicks").integers(2**62)
        sample = sample._replace(seed=torch.tensor(seed))
        if self.read_embedding is not None:
            sample = sample._replace(embedding=self.read_embedding(record))
        return with_mask_prompts(sample, prompts) if self.prompts.mask else sample

    def _prompted(
        self, frames: list[Mask], geometry: Geometry, valid: Mask, rng: np.random.Generator
    ) -> tuple[list[Mask], list[Prompt]]:
        """The segment of each of the P prompts, none in an image without, and the prompts.

        frames: masks (S, S) of segments; valid: (S, S), as in `Sample`.
        """
        size, count = model_frame_size(geometry.size, geometry.longest), self.objects_per_image
        if not frames:
            return [], [prompt_anywhere(size, self.prompts, rng) for _ in range(count)]
        chosen = [frames[i] for i in _repeat(np.arange(len(frames)), count)]
        targets = (Target(mask, size, valid) for mask in chosen)
        return chosen, [random_prompt(target, self.prompts, rng) for target in targets]

    def _image(
        self, position: int, record: IndexedImage, geometry: Geometry, rng: np.random.Generator
    ) -> Tensor:
        if self.read_embedding is not None:
            return torch.empty(0)
        # Brightness is older than the streams; what it trained stays the same, bit for bit.
        pixels = recoloured(
            geometry.apply(read_unchanged(record)),
            self.augment,
            lambda name: rng if name == "brightness" else self._stream(position, name),
        )
        return image_to_model_frame(pixels, self.img_size, geometry.longest)

    def _teacher_features(self, record: IndexedImage, view: str) -> dict[str, Tensor]:
        return {} if self.read_features is None else self.read_features(record, view)

    def _shown(
        self, position: int, record: IndexedImage, order: np.ndarray, mirrored: bool
    ) -> tuple[Geometry, list[Mask]]:
        """What is shown of an image, and the masks of the first P segments that can be seen there.

        order: of the segments. Where a crop shows none of them, the whole image is shown.
        """
        segments = [record.segments[i] for i in order]
        everything = whole(record.size, self.img_size, mirrored)
        if self.augment.scale:
            rng = self._stream(position, "scale")
            geometry = rescaled(everything, self.augment.scale, rng)
            masks = (geometry.apply(record.mask(s)) for s in segments if geometry.touches(s.box))
            seen = list(islice((mask for mask in masks if mask.any()), self.objects_per_image))
            if seen or not segments:
                return geometry, seen
        shown = segments[: self.objects_per_image]
        return everything, [everything.apply(record.mask(segment)) for segment in shown]

    def _stream(self, position: int, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose, so that no other purpose moves them."""
        key = tuple(purpose.encode())
        entropy = [self.seed, self.epoch, position]
        return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))


class ValidationSet(Dataset[Sample]):
    """The first `num_images` images with fixed prompts: each segment by box, then by point.

    An image shows its first `objects_per_image` segments, repeated where it has fewer.
    read_embedding: as in `TrainingSet`.
    """

    def __init__(
        self,
        index: Index,
        img_size: int,
        objects_per_image: int,
        num_images: int,
        read_embedding: Callable[[IndexedImage], Tensor] | None = None,
    ) -> None:
        self.index = index
        self.img_size = img_size
        self.objects_per_image = objects_per_image
        self.num_images = min(num_images, len(index))
        self.read_embedding = read_embedding

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, position: int) -> Sample:
        record = self.index[position]
        geometry = whole(record.size, self.img_size)
        chosen = _repeat(np.arange(len(record.segments)), self.objects_per_image)
        frames = [visible_frame(record.mask(record.segments[i]), self.img_size) for i in chosen]
        prompts = [kind(frame) for kind in VALIDATION_PROMPTS.values() for frame in frames]
        masks = frames * len(VALIDATION_PROMPTS)
        valid = valid_frame(record, geometry, self.img_size, frames)
        if self.read_embedding is not None:
            sample = sample_of(position, torch.empty(0), valid, masks, prompts, {})
            return sample._replace(embedding=self.read_embedding(record))
        image = image_to_model_frame(read_unchanged(record), self.img_size)
        return sample_of(position, image, valid, masks, prompts, {})


def _repeat(order: np.ndarray, count: int) -> np.ndarray:
    return np.resize(order, count)
