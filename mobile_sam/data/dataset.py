"""What a training step reads: images with the masks and prompts of some of their segments."""

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mobile_sam.data.augment import Geometry, recoloured, rescaled, whole
from mobile_sam.data.images import RecordError, read_image
from mobile_sam.data.index import Index, IndexedImage
from mobile_sam.data.masks import Mask
from mobile_sam.data.prompts import VALIDATION_PROMPTS, Prompt, Target, random_prompt
from mobile_sam.data.transforms import image_to_model_frame, mask_to_model_frame
from mobile_sam.frames import model_frame_size
from mobile_sam.options import Augment, Prompts


class Sample(NamedTuple):
    """One image in the model frame with P prompted segments; a batch stacks these.

    position: number of the image in its index.
    image: (3, S, S) normalised; valid: (S, S) bool, false on padding.
    masks: (P, S, S) bool; points: (P, T, 2) xy pixels; labels: (P, T).
    teacher: stored features (C, S/16, S/16) by level, none where none are read; float16.
    embedding: of the image (C, S/16, S/16), float16; then `image` is (0,). Else (0,).
    mask_prompts: low_res_logits (P, 1, S/4, S/4), or (0,) without mask prompts.
    has_mask: (P,) bool, which of mask_prompts count; (0,) without.
    seed: of what is random after reading, a function of (seed, epoch, position).
    labelled: bool, whether `masks` are the truth; else they are empty and only teachers count.
    """

    position: Tensor
    image: Tensor
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
        order = rng.permutation(len(record.segments))
        mirrored = self.augment.flip and rng.random() < 0.5
        geometry, masks = self._shown(position, record, order, mirrored)
        image = self._image(position, record, geometry, rng)
        frames = [_visible_in_model_frame(mask, self.img_size, geometry.longest) for mask in masks]
        size = model_frame_size(geometry.size, geometry.longest)
        chosen = _repeat(np.arange(len(frames)), self.objects_per_image)
        prompts = [random_prompt(Target(frames[i], size), self.prompts, rng) for i in chosen]
        sample = _sample(
            position,
            image,
            size,
            [frames[i] for i in chosen],
            prompts,
            self._teacher_features(record, geometry.view),
        )
        seed = self._stream(position, "clicks").integers(2**62)
        sample = sample._replace(seed=torch.tensor(seed))
        if self.read_embedding is not None:
            sample = sample._replace(embedding=self.read_embedding(record))
        return _with_mask_prompts(sample, prompts, self.img_size) if self.prompts.mask else sample

    def _image(
        self, position: int, record: IndexedImage, geometry: Geometry, rng: np.random.Generator
    ) -> Tensor:
        if self.read_embedding is not None:
            return torch.empty(0)
        # Brightness is older than the streams; what it trained stays the same, bit for bit.
        pixels = recoloured(
            geometry.apply(_read_unchanged(record)),
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
            if seen:
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
        chosen = _repeat(np.arange(len(record.segments)), self.objects_per_image)
        frames = [
            _visible_in_model_frame(record.mask(record.segments[i]), self.img_size) for i in chosen
        ]
        prompts = [kind(frame) for kind in VALIDATION_PROMPTS.values() for frame in frames]
        masks = frames * len(VALIDATION_PROMPTS)
        size = model_frame_size(record.size, self.img_size)
        if self.read_embedding is not None:
            sample = _sample(position, torch.empty(0), size, masks, prompts, {})
            return sample._replace(embedding=self.read_embedding(record))
        image = image_to_model_frame(_read_unchanged(record), self.img_size)
        return _sample(position, image, size, masks, prompts, {})


def _read_unchanged(record: IndexedImage) -> NDArray[np.uint8]:
    pixels = read_image(record.path)
    if pixels.shape[:2] != record.size:
        raise RecordError(
            f"{record.path}: the image changed since it was indexed; run `index` again"
        )
    return pixels


def _repeat(order: np.ndarray, count: int) -> np.ndarray:
    return np.resize(order, count)


def _visible_in_model_frame(mask: Mask, img_size: int, longest: int | None = None) -> Mask:
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


def _sample(
    position: int,
    image: Tensor,
    size: tuple[int, int],
    masks: list[Mask],
    prompts: list[Prompt],
    teacher: dict[str, Tensor],
) -> Sample:
    valid = torch.zeros(masks[0].shape, dtype=torch.bool)
    valid[: size[0], : size[1]] = True
    return Sample(
        position=torch.tensor(position),
        image=image,
        valid=valid,
        masks=torch.from_numpy(np.stack(masks)),
        points=torch.from_numpy(np.stack([prompt.points for prompt in prompts])),
        labels=torch.from_numpy(np.stack([prompt.labels for prompt in prompts])),
        teacher=teacher,
    )


def _with_mask_prompts(sample: Sample, prompts: list[Prompt], img_size: int) -> Sample:
    nothing = np.zeros((img_size // 4, img_size // 4), dtype=np.float32)
    masks = [nothing if prompt.mask is None else prompt.mask for prompt in prompts]
    return sample._replace(
        mask_prompts=torch.from_numpy(np.stack(masks))[:, None],
        has_mask=torch.tensor([prompt.mask is not None for prompt in prompts]),
    )
