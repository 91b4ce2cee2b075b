"""Transforms of images and masks to the model frame: resize, pad, normalise, as SAM does."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mobile_sam.coordinates import PIXEL_MEAN, PIXEL_STD, model_frame_size
from mobile_sam.data.masks import Mask


def image_to_model_frame(image: NDArray[np.uint8], img_size: int) -> Tensor:
    """Resize, normalise and pad RGB pixels (H, W, 3) to (3, S, S); padding is 0."""
    pixels = resize_image(image, img_size)
    return normalise(pad_to_frame(pixels, img_size), torch.tensor(pixels.shape[:2]))


def pad_to_frame(pixels: NDArray[np.uint8], img_size: int) -> Tensor:
    """Resized pixels (H, W, 3) to (3, S, S), uint8: as images travel to the device of a model."""
    height, width = pixels.shape[:2]
    frame = np.zeros((3, img_size, img_size), dtype=np.uint8)
    for plane, colour in zip(frame, cv2.split(pixels), strict=True):
        plane[:height, :width] = colour
    return torch.from_numpy(frame)


def normalise(frames: Tensor, sizes: Tensor) -> Tensor:
    """Frames (..., 3, S, S) of `pad_to_frame` as encoders take them, float32; padding is 0.

    sizes: (..., 2), H and W of the part of each frame that shows the image.
    """
    mean, std = (
        torch.tensor(value, dtype=torch.float32).to(frames.device, non_blocking=True)[:, None, None]
        for value in (PIXEL_MEAN, PIXEL_STD)
    )
    shown = torch.arange(frames.shape[-1], device=frames.device) < sizes[..., None]  # (..., 2, S)
    padding = ~(shown[..., 0, :, None] & shown[..., 1, None, :])
    return frames.float().sub_(mean).div_(std).masked_fill_(padding.unsqueeze(-3), 0)


def resize_image(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3), resized until the longest side has `longest` of them."""
    height, width = model_frame_size(image.shape[:2], longest)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def mask_to_model_frame(mask: Mask, img_size: int, longest: int | None = None) -> Mask:
    """A mask (H, W) to (S, S), padded with background; a pixel is set where half of it is.

    longest: pixels of the mask's longest side in the model frame; None: all S.
    """
    height, width = model_frame_size(mask.shape, longest or img_size)
    frame = np.zeros((img_size, img_size), dtype=bool)
    coverage = cv2.resize(
        mask.astype(np.float32), (width, height), interpolation=_interpolation(mask, width)
    )
    frame[:height, :width] = coverage >= 0.5
    return frame


def _interpolation(mask: Mask, width: int) -> int:
    return cv2.INTER_AREA if width < mask.shape[1] else cv2.INTER_LINEAR
