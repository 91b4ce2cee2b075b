"""Image encoder with any backbone of timm: its features of stride 16, and SAM's neck."""

from collections.abc import Sequence

import timm
from torch import Tensor, nn

from mobile_sam.config.sections import Level
from mobile_sam.models.neck import Neck
from mobile_sam.system.errors import ConfigError


class TimmEncoder(nn.Module):
    """Image encoder: from images to embeddings of stride 16.

    name: a model of timm that gives features (`timm.list_models()`).
    out_dim: channels of the embedding.
    Raises ConfigError for a name that timm does not have, or a model without stride 16.
    """

    def __init__(self, name: str, out_dim: int = 256) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise ConfigError(
                f"model_type: timm has no {name!r}; `timm.list_models()` names those that exist"
            )
        try:
            self.body = timm.create_model(name, features_only=True)
        except (RuntimeError, AttributeError) as error:
            raise ConfigError(f"model_type: timm's {name!r} gives no features ({error})") from error
        strides = self.body.feature_info.reduction()
        if 16 not in strides:
            raise ConfigError(f"model_type: timm's {name!r} has strides {strides}, but not 16")
        self.level = len(strides) - 1 - strides[::-1].index(16)  # the last level of that stride
        self.neck = Neck(self.body.feature_info.channels()[self.level], out_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S), normalised, to embeddings (B, out_dim, S/16, S/16)."""
        return self.neck(self.body(images)[self.level])

    def features(self, images: Tensor, levels: Sequence[Level]) -> dict[str, Tensor]:
        """Return the embedding as `neck`; other levels differ between backbones."""
        if tuple(levels) != ("neck",):
            raise ConfigError(
                f"distill_feature_level: a timm teacher has 'neck' only, not {list(levels)}"
            )
        return {"neck": self(images)}
