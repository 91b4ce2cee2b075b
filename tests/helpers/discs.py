"""A model that answers each point with discs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobile_sam.inference import proposals
from mobile_sam.inference.automatic_masks import AutomaticOptions, automatic_masks
from mobile_sam.models.sam import Sam

HEIGHT, WIDTH = 90, 120
# Of the three discs around each point, in pixels of the model frame, and what is predicted.
RADII, IOU, SLOPE = (6.0, 12.0, 20.0), (0.92, 0.96, 0.7), (2.0, 4.0, 0.5)
ALL = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
ALL |= {"box_nms_thresh": 1.0, "crop_nms_thresh": 1.0}


class Discs(Sam):
    """Answers each point with three discs around it; the IoU of each falls a little from the left.

    Logits fall by SLOPE with each pixel from the middle.
    """

    def decode(self, image_embedding: Tensor, points: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        side = self.img_size // 4
        x = y = (torch.arange(side) + 0.5) * 4
        away_x, away_y = (x - points[:, :1, 0]).square(), (y - points[:, :1, 1]).square()
        distance = (away_y[:, :, None] + away_x[:, None]).sqrt()[:, None]  # (N, 1, S/4, S/4)
        radii, slopes = (torch.tensor(v)[:, None, None] for v in (RADII, SLOPE))
        low_res_logits = (radii - distance) * slopes
        return low_res_logits, torch.tensor(IOU) - points[:, 0, :1] / 10_000


def found(model: Sam, image: np.ndarray, **options: Any) -> list[proposals.AutomaticMask]:
    return automatic_masks(model, image, AutomaticOptions(**{"points_per_side": 4} | options))
