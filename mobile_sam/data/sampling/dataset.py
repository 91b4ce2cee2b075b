"""Data sets of training and validation: images with masks and prompts of some segments."""

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
from mobile_sam.data.sampling.augment import Geometry, colour_jitter, full_view, random_rescale
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


_REPEAT_OFFSET = 2**40  # more than a run has samples; an image may be drawn 2**23 times an epoch


class TrainingSet(Dataset[Sample]):
    """Random segments and prompts of each image; a function of (seed, epoch, position) alone.

    Samples are numbered through all epochs, by `numbers`.

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
        """The image at a position, with or without masks; from `len` on they begin again."""
        return self.images[position % len(self)]

    def numbers(self, epoch: int, positions: NDArray[np.int_]) -> list[int]:
        """The numbers of samples of an epoch.

        positions: from `len` on they are images that are in the epoch once more, as other samples.
        """
        again, first = np.divmod(positions, len(self))
        return (again * _REPEAT_OFFSET + epoch * len(self) + first).tolist()

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng(self._entropy(number))
        position = number % _REPEAT_OFFSET % len(self)
        record = self.record(position)
        order = rng.permutation(len(record.segments))
        mirrored = self.augment.flip and rng.random() < 0.5
        geometry, masks = self._shown(number, record, order, mirrored)
        image = self._image(number, record, geometry, rng)
        frames = [nonempty_mask_frame(mask, self.img_size, geometry.longest) for mask in masks]
        valid = valid_mask_frame(record, geometry, self.img_size, frames)
        frames, prompts = self._prompted(frames, geometry, valid, rng)
        teacher = self._teacher_features(record, geometry.view)
        size = model_frame_size(geometry.size, geometry.longest)
        sample = make_sample(position, image, size, valid, frames, prompts, teacher)
        seed = self._stream(number, "clicks").integers(2**62)
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
        self, number: int, record: IndexedImage, geometry: Geometry, rng: np.random.Generator
    ) -> Tensor:
        if self.read_embedding is not None:
            return torch.empty(0)
        pixels = colour_jitter(
            resize_image(geometry.apply(read_indexed_image(record)), geometry.longest),
            self.augment,
            # Brightness is older than the streams; it draws as it always did.
            lambda name: rng if name == "brightness" else self._stream(number, name),
        )
        return pad_to_frame(pixels, self.img_size)

    def _teacher_features(self, record: IndexedImage, view: str) -> dict[str, Tensor]:
        return {} if self.read_features is None else self.read_features(record, view)

    def _shown(
        self, number: int, record: IndexedImage, order: np.ndarray, mirrored: bool
    ) -> tuple[Geometry, list[Mask]]:
        """View of an image, and the masks of the first P segments that are visible in it.

        order: of the segments. Where a crop shows none of them, the whole image is shown.
        """
        segments = [record.segments[i] for i in order]
        everything = full_view(record.size, self.img_size, mirrored)
        if self.augment.scale:
            rng = self._stream(number, "scale")
            geometry = random_rescale(everything, self.augment.scale, rng)
            masks = (geometry.apply(record.mask(s)) for s in segments if geometry.touches(s.box))
            seen = list(islice((mask for mask in masks if mask.any()), self.objects_per_image))
            if seen or not segments:
                return geometry, seen
        shown = segments[: self.objects_per_image]
        return everything, [everything.apply(record.mask(segment)) for segment in shown]

    def _stream(self, number: int, purpose: str) -> np.random.Generator:
        """Random numbers of a sample for one purpose, so that no other purpose moves them."""
        key = tuple(purpose.encode())
        return np.random.default_rng(np.random.SeedSequence(self._entropy(number), spawn_key=key))

    def _entropy(self, number: int) -> list[int]:
        again, number = divmod(number, _REPEAT_OFFSET)
        return [self.seed, *divmod(number, len(self)), *([again] if again else [])]


class ValidationSet(Dataset[Sample]):
    """Images and segments that validation after an epoch sees; a function of (seed, index) alone.

    num_images: `validation_positions` chooses so many. objects_per_image: so many segments of an
    image are drawn, all where it has fewer.
    Samples have each segment once in `masks` (P, S, S), and in `points` (K*P, 2, 2) and `labels`
    all segments by the first kind of VALIDATION_PROMPTS, then all by the second.
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
        segments = [record.segments[i] for i in self._drawn(position, len(record.segments))]
        frames = [nonempty_mask_frame(record.mask(segment), self.img_size) for segment in segments]
        prompts = [kind(frame) for kind in VALIDATION_PROMPTS.values() for frame in frames]
        valid = valid_mask_frame(record, geometry, self.img_size, frames)
        size = model_frame_size(record.size, self.img_size)
        if self.read_embedding is not None:
            sample = make_sample(position, torch.empty(0), size, valid, frames, prompts, {})
            return sample._replace(embedding=self.read_embedding(record))
        image = pad_to_frame(resize_image(read_indexed_image(record), self.img_size), self.img_size)
        return make_sample(position, image, size, valid, frames, prompts, {})

    def _drawn(self, position: int, segments: int) -> Positions:
        """Numbers of the segments that are shown of an image, in order."""
        rng = np.random.default_rng([self.seed, position])
        count = min(self.objects_per_image, segments)
        return np.sort(rng.choice(segments, count, replace=False))


def validation_positions(images: int, most: int, seed: int) -> Positions:
    """Positions of the images that validation after an epoch sees, in order: a stratified sample.

    One image is drawn from each of `most` equally long parts of the index, so that the sample
    covers all folders and sources in proportion. All images where there are no more than `most`.
    """
    count = min(most, images)
    bounds = np.arange(count + 1) * images // count
    return np.random.default_rng([seed, images]).integers(bounds[:-1], bounds[1:])


def _repeat(order: np.ndarray, count: int) -> np.ndarray:
    return np.resize(order, count)
