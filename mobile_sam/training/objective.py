"""What a stage asks of a step: losses, their weights, and rounds of prompts."""

from dataclasses import dataclass

from mobile_sam.config import RunConfig
from mobile_sam.options import Clicks, LossWeights
from mobile_sam.stage import Stage


@dataclass(frozen=True)
class Objective:
    """What a stage asks of a step.

    supervised: weights of the losses to the truth; empty for a stage that looks at no masks.
    features, answers: weights of the losses to teachers; empty without distillation.
    lambda_coef: weight of their sum.
    rounds: of prompts, each after the first with one more click, where the student differs from
        the truth or the teacher, by `clicks`.
    multimask: whether single points get three masks, of which the best learns.
    prompts_per_pass: decoded at a time.
    """

    supervised: dict[str, float]
    features: dict[str, float]
    answers: dict[str, float]
    lambda_coef: float = 1.0
    rounds: int = 1
    clicks: Clicks = "truth"
    multimask: bool = True
    prompts_per_pass: int = 32

    @property
    def prompted(self) -> bool:
        """Whether prompts are answered at all."""
        return bool(self.supervised or self.answers)


def objective(config: RunConfig, stage: Stage) -> Objective:
    """The objective of a stage."""
    return Objective(
        supervised=weighted(stage.loss_weights),
        features=stage.distill_losses.features if stage.distils else {},
        answers=stage.distill_losses.prompted if stage.distils else {},
        lambda_coef=stage.lambda_coef,
        rounds=stage.prompt_rounds,
        clicks=stage.clicks,
        multimask=config.multimask,
        prompts_per_pass=config.prompts_per_pass,
    )


def weighted(weights: LossWeights) -> dict[str, float]:
    """The weights of the losses to compute; none where all are 0."""
    found = weights.model_dump()
    if not any(found.values()):
        return {}
    # The metrics show the usual losses also where they have no weight.
    return {name: weight for name, weight in found.items() if weight or name != "boundary"}
