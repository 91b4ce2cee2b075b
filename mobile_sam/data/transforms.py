"""Images and masks into the model frame: resized, normalised, padded, as SAM does it."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mobile_sam.data.masks import Mask
from mobile_sam.frames import PIXEL_MEAN, PIXEL_STD, model_frame_size


def image_to_model_frame(
    image: NDArray[np.uint8], img_size: int, longest: int | None = None
) -> Tensor:
    """RGB pixels (H, W, 3) to (3, S, S): resized, normalised, then padded below and right.

    longest: pixels of the image's longest side in the model frame; None: all S.
    """
    resized = resize_image(image, longest or img_size)
    height, width = resized.shape[:2]
    pixels = torch.from_numpy(resized).permute(2, 0, 1).float()
    mean, std = torch.tensor(PIXEL_MEAN)[:, None, None], torch.tensor(PIXEL_STD)[:, None, None]
    frame = torch.zeros(3, img_size, img_size)
    frame[:, :height, :width] = (pixels - mean) / std
    return frame


def resize_image(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Pixels (H, W, 3), resized until the longest side has `longest` of them."""
    height, width = model_frame_size(image.shape[:2], longest)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def mask_to_model_frame(mask: Mask, img_size: int, longest: int | None = None) -> Mask:
    """A mask (H, W) to (S, S), padded with background; a pixel is set where half of it is.

    longest: as in `image_to_model_frame`.
    """
    height, width = model_frame_size(mask.shape, longest or img_size)
    frame = np.zeros((img_size, img_size), dtype=bool)
    coverage = cv2.resize(mask.astype(np.float32), (width, height), interpolation=_how(mask, width))
    frame[:height, :width] = coverage >= 0.5
    return frame


def _how(mask: Mask, width: int) -> int:
    return cv2.INTER_AREA if width < mask.shape[1] else cv2.INTER_LINEAR
