"""Images, points and boxes into the model frame: the interface of the original's transform."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mobile_sam.data.transforms import resize_image
from mobile_sam.frames import model_frame_size, points_to_model_frame

ImageSize = tuple[int, ...]  # (H, W); the first two of an array's shape


class ResizeLongestSide:
    """Resizes until the longest side has `target_length` pixels.

    Sizes are (H, W) of the original image in pixels; points are xy, boxes xyxy.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) in 0..255, resized as the model was trained with."""
        return resize_image(image, self.target_length)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) in float, resized; they differ a little from `apply_image`."""
        height, width = image.shape[-2:]
        size = self.get_preprocess_shape(height, width, self.target_length)
        return F.interpolate(image, size, mode="bilinear", antialias=True)

    def apply_coords(
        self, coords: NDArray[np.generic], original_size: ImageSize
    ) -> NDArray[np.float64]:
        """Points (..., 2) in the model frame."""
        height, width = original_size[:2]
        resized = self.get_preprocess_shape(height, width, self.target_length)
        scale = np.array([resized[1] / width, resized[0] / height])
        return np.asarray(coords, dtype=np.float64) * scale

    def apply_boxes(
        self, boxes: NDArray[np.generic], original_size: ImageSize
    ) -> NDArray[np.float64]:
        """Boxes (N, 4) in the model frame."""
        return self.apply_coords(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: ImageSize) -> Tensor:
        """Points (..., 2) in the model frame."""
        height, width = original_size[:2]
        return points_to_model_frame(coords.float(), (height, width), self.target_length)

    def apply_boxes_torch(self, boxes: Tensor, original_size: ImageSize) -> Tensor:
        """Boxes (N, 4) in the model frame."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """(H, W) in the model frame of an image of `oldh` x `oldw` pixels."""
        return model_frame_size((oldh, oldw), long_side_length)
