"""Data sets for training and validation: images with masks and prompts of some segments."""

from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mobile_sam.config.sections import Augment, Prompts
from mobile_sam.coordinates import model_frame_size
from mobile_sam.data.index.table import ConcatIndex, Index, IndexedImage, read_indexed_image
from mobile_sam.data.masks import Mask
from mobile_sam.data.sampling.augment import (
    Geometry,
    colour_jitter,
    crop_around,
    full_view,
    random_box,
    random_rescale,
)
from mobile_sam.data.sampling.prompts import (
    VALIDATION_PROMPTS,
    Prompt,
    Target,
    prompt_anywhere,
    random_prompt,
)
from mobile_sam.data.sampling.samples import (
    Sample,
    collate,
    make_sample,
    nonempty_mask_frame,
    valid_mask_frame,
    with_mask_prompts,
)
from mobile_sam.data.transforms import pad_to_frame, resize_image

__all__ = ["Sample", "TrainingSet", "ValidationSet", "collate", "validation_positions"]

Positions = NDArray[np.int_]

# More than the samples of a run; an image may be drawn 2**23 times in an epoch.
_REPEAT_OFFSET = 2**40


class TrainingSet(Dataset[Sample]):
    """Random segments and prompts of each image; a function of (seed, epoch, position) alone.

    Samples have consecutive numbers over all epochs, see `numbers`.

    unlabelled: images without masks, whose positions follow those of `index`. Their prompts are
        at random places.
    objects_per_image: P. An image with fewer segments repeats them with other prompts.
    read_features: returns the stored teacher features (C, S/16, S/16) by level, of an image as it
        is ("identity") or mirrored left-right ("hflip").
    read_embedding: returns the embedding (C, S/16, S/16) by a frozen encoder, used in place of the
        image; only for images that no augmentation changes.
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
        self.images = ConcatIndex([index] if unlabelled is None else [index, unlabelled])
        self.labelled = len(index)
        self.img_size = img_size
        self.objects_per_image = objects_per_image
        self.prompts = prompts
        self.augment = augment
        self.seed = seed
        self.read_features = read_features

    def __len__(self) -> int:
        return len(self.images)

    def record(self, position: int) -> IndexedImage:
        """Return the image at a position, with or without masks; positions wrap around at `len`."""
        return self.images[position % len(self)]

    def numbers(self, epoch: int, positions: NDArray[np.int_]) -> list[int]:
        """Return the sample numbers of an epoch.

        positions: positions from `len` on repeat images within the epoch, as different samples.
        """
        again, first = np.divmod(positions, len(self))
        return (again * _REPEAT_OFFSET + epoch * len(self) + first).tolist()

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng(self._entropy(number))
        position = number % _REPEAT_OFFSET % len(self)
        record = self.record(position)
        order = rng.permutation(len(record.segments))
        mirrored = self.augment.flip and rng.random() < 0.5
        geometry, masks = self._visible_masks(number, record, order, mirrored)
        image = self._image(number, record, geometry, rng)
        frames = [nonempty_mask_frame(mask, self.img_size, geometry.longest) for mask in masks]
        valid = valid_mask_frame(record, geometry, self.img_size, frames)
        frames, prompts = self._draw_prompts(frames, geometry, valid, rng)
        teacher = self._teacher_features(record, geometry.view)
        size = model_frame_size(geometry.size, geometry.longest)
        sample = make_sample(position, image, size, valid, frames, prompts, teacher)
        seed = self._stream(number, "clicks").integers(2**62)
        sample = sample._replace(seed=torch.tensor(seed))
        if self.read_embedding is not None:
            sample = sample._replace(embedding=self.read_embedding(record))
        return with_mask_prompts(sample, prompts) if self.prompts.mask else sample

    def _draw_prompts(
        self, frames: list[Mask], geometry: Geometry, valid: Mask, rng: np.random.Generator
    ) -> tuple[list[Mask], list[Prompt]]:
        """Draw P prompts; return the mask of each, and the prompts. No masks without segments.

        frames: masks (S, S) of segments; valid: (S, S), as in `Sample`.
        """
        size, count = model_frame_size(geometry.size, geometry.longest), self.objects_per_image
        if not frames:
            return [], [prompt_anywhere(size, self.prompts, rng) for _ in range(count)]
        masks = [frames[i] for i in np.resize(np.arange(len(frames)), count)]
        targets = (Target(mask, size, valid) for mask in masks)
        return masks, [random_prompt(target, self.prompts, rng) for target in targets]

    def _image(
        self, number: int, record: IndexedImage, geometry: Geometry, rng: np.random.Generator
    ) -> Tensor:
        if self.read_embedding is not None:
            return torch.empty(0)
        pixels = colour_jitter(
            resize_image(geometry.apply(read_indexed_image(record)), geometry.longest),
            self.augment,
            # Brightness draws from the sample's generator, so that earlier results stay the same.
            lambda name: rng if name == "brightness" else self._stream(number, name),
        )
        return pad_to_frame(pixels, self.img_size)

    def _teacher_features(self, record: IndexedImage, view: str) -> dict[str, Tensor]:
        return {} if self.read_features is None else self.read_features(record, view)

    def _visible_masks(
        self, number: int, record: IndexedImage, order: np.ndarray, mirrored: bool
    ) -> tuple[Geometry, list[Mask]]:
        """Draw the geometry of an image; return it with the masks of the first P visible segments.

        order: order of the segments. If a crop shows no segment, the whole image is used.
        """
        segments = [record.segments[i] for i in order]
        whole_image = geometry = full_view(record.size, self.img_size, mirrored)
        if self.augment.crop:
            rng = self._stream(number, "crop")
            box = segments[0].box if segments else random_box(record.size, rng)
            geometry = crop_around(geometry, box, rng)
        if self.augment.scale:
            rng = self._stream(number, "scale")
            geometry = random_rescale(geometry, self.augment.scale, rng)
        if self.augment.crop or self.augment.scale:
            masks = (geometry.apply(record.mask(s)) for s in segments if geometry.touches(s.box))
            visible = list(islice((mask for mask in masks if mask.any()), self.objects_per_image))
            if visible or not segments:
                return geometry, visible
        first = segments[: self.objects_per_image]
        return whole_image, [whole_image.apply(record.mask(segment)) for segment in first]

    def _stream(self, number: int, purpose: str) -> np.random.Generator:
        """Return the random generator of a sample for one purpose, independent of all others."""
        key = tuple(purpose.encode())
        return np.random.default_rng(np.random.SeedSequence(self._entropy(number), spawn_key=key))

    def _entropy(self, number: int) -> list[int]:
        """Return the seed, epoch and position of a sample, and its repetition if it is one."""
        again, number = divmod(number, _REPEAT_OFFSET)
        return [self.seed, *divmod(number, len(self)), *([again] if again else [])]


class ValidationSet(Dataset[Sample]):
    """Images and segments for the validation after an epoch; a function of (seed, index) alone.

    num_images: number of images that `validation_positions` draws. objects_per_image: number of
    segments drawn from an image; an image with fewer uses all.
    A sample has each segment once in `masks` (P, S, S). `points` (K*P, 2, 2) and `labels` have the
    prompts of all segments by the first kind of VALIDATION_PROMPTS, then by the second.
    read_embedding: as in `TrainingSet`.
    """

    def __init__(
        self,
        index: Index,
        img_size: int,
        objects_per_image: int,
        num_images: int,
        seed: int,
        read_embedding: Callable[[IndexedImage], Tensor] | None = None,
    ) -> None:
        self.index = index
        self.img_size = img_size
        self.objects_per_image = objects_per_image
        self.seed = seed
        self.positions = validation_positions(len(index), num_images, seed)
        self.read_embedding = read_embedding

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> Sample:
        position = int(self.positions[number])
        record = self.index[position]
        geometry = full_view(record.size, self.img_size)
        drawn = self._draw_segments(position, len(record.segments))
        segments = [record.segments[i] for i in drawn]
        frames = [nonempty_mask_frame(record.mask(segment), self.img_size) for segment in segments]
        prompts = [kind(frame) for kind in VALIDATION_PROMPTS.values() for frame in frames]
        valid = valid_mask_frame(record, geometry, self.img_size, frames)
        size = model_frame_size(record.size, self.img_size)
        if self.read_embedding is not None:
            sample = make_sample(position, torch.empty(0), size, valid, frames, prompts, {})
            return sample._replace(embedding=self.read_embedding(record))
        image = pad_to_frame(resize_image(read_indexed_image(record), self.img_size), self.img_size)
        return make_sample(position, image, size, valid, frames, prompts, {})

    def _draw_segments(self, position: int, segments: int) -> Positions:
        """Draw the numbers of the segments of an image that are used, in ascending order."""
        rng = np.random.default_rng([self.seed, position])
        count = min(self.objects_per_image, segments)
        return np.sort(rng.choice(segments, count, replace=False))


def validation_positions(images: int, most: int, seed: int) -> Positions:
    """Draw the positions of images for the validation after an epoch: a stratified sample.

    images: number of images in the index. Returns at most `most` positions in ascending order: one
    from each of `most` equally long parts of the index, so that the sample covers all folders and
    sources in proportion. All positions if there are at most `most` images.
    """
    count = min(most, images)
    bounds = np.arange(count + 1) * images // count
    return np.random.default_rng([seed, images]).integers(bounds[:-1], bounds[1:])
