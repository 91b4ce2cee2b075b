"""Import path of the original for `PromptEncoder`."""

from mobile_sam.models.prompt_encoder import PromptEncoder

__all__ = ["PromptEncoder"]
