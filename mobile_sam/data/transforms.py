"""Transforms of images and masks to the model frame, as in SAM: resize, pad, normalise."""

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
    """Pad resized pixels (H, W, 3) to (3, S, S), uint8, as transferred to the device."""
    height, width = pixels.shape[:2]
    frame = np.zeros((3, img_size, img_size), dtype=np.uint8)
    for plane, colour in zip(frame, cv2.split(pixels), strict=True):
        plane[:height, :width] = colour
    return torch.from_numpy(frame)


def normalise(frames: Tensor, sizes: Tensor) -> Tensor:
    """Normalise frames (..., 3, S, S) of `pad_to_frame` for encoders; float32, padding is 0.

    sizes: (..., 2), H and W of the image in each frame.
    """
    mean, std = (
        torch.tensor(value, dtype=torch.float32).to(frames.device, non_blocking=True)[:, None, None]
        for value in (PIXEL_MEAN, PIXEL_STD)
    )
    inside = torch.arange(frames.shape[-1], device=frames.device) < sizes[..., None]  # (..., 2, S)
    padding = ~(inside[..., 0, :, None] & inside[..., 1, None, :])
    return frames.float().sub_(mean).div_(std).masked_fill_(padding.unsqueeze(-3), 0)


def resize_image(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Resize pixels (H, W, 3) so that the longest side has `longest` pixels."""
    height, width = model_frame_size(image.shape[:2], longest)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def mask_to_model_frame(mask: Mask, img_size: int, longest: int | None = None) -> Mask:
    """Resize a mask (H, W) to (S, S), padded with background; coverage of one half sets a pixel.

    longest: pixels of the mask's longest side in the model frame; None: S.
    """
    height, width = model_frame_size(mask.shape, longest or img_size)
    frame = np.zeros((img_size, img_size), dtype=bool)
    interpolation = cv2.INTER_AREA if width < mask.shape[1] else cv2.INTER_LINEAR
    coverage = cv2.resize(mask.astype(np.float32), (width, height), interpolation=interpolation)
    frame[:height, :width] = coverage >= 0.5
    return frame
