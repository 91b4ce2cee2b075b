"""The image frame and the model frame: pixels of the original image, and of the resized one.

SAM resizes an image until its longest side has S pixels, and pads it below and on the right.
"""

from torch import Tensor
from torch.nn import functional as F

from mobile_sam.system.errors import UserError

# Of ImageNet, in 0..255; what lies in the model frame is less the mean and divided by the other.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class ThinImageError(UserError):
    """An image that has no row or no column in the model frame."""


def model_frame_size(image_size: tuple[int, int], img_size: int) -> tuple[int, int]:
    """(H, W) that an image of `image_size` (H, W) takes up in a model frame of side `img_size`.

    Raises ThinImageError for an image that is too thin to have a row or a column there.
    """
    scale = img_size / max(image_size)
    height, width = int(image_size[0] * scale + 0.5), int(image_size[1] * scale + 0.5)
    if not height or not width:
        raise ThinImageError(
            f"an image of {image_size[1]}x{image_size[0]} pixels is thinner than one pixel when "
            f"its longest side has {img_size}; cut it into pieces, or raise img_size"
        )
    return height, width


def points_to_model_frame(points: Tensor, image_size: tuple[int, int], img_size: int) -> Tensor:
    """Points (..., 2), xy in pixels, from the image frame to the model frame."""
    height, width = model_frame_size(image_size, img_size)
    return points * points.new_tensor([width / image_size[1], height / image_size[0]])


def upscale_logits(
    low_res_logits: Tensor,
    img_size: int,
    image_size: tuple[int, int],
    resized: tuple[int, int] | None = None,
) -> Tensor:
    """Mask logits in the image frame.

    low_res_logits: (P, M, S/4, S/4), model frame, before the threshold.
    img_size: S, the side of the model frame in pixels.
    image_size: (H, W) of the original image in pixels.
    resized: (H, W) that it takes up in the model frame; None: as `model_frame_size` says.
    Returns (P, M, H, W).
    """
    height, width = resized or model_frame_size(image_size, img_size)
    logits = F.interpolate(low_res_logits, (img_size, img_size), mode="bilinear")
    logits = logits[..., :height, :width]  # what lies outside is padding
    return F.interpolate(logits, image_size, mode="bilinear")
