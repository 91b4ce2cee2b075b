"""Images without masks in training: in the stages that distil, and in no other."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mobile_sam.config import RunConfig
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import normalise
from mobile_sam.training import checkpoint
from mobile_sam.training.learner import Learner
from mobile_sam.training.progress import NotFiniteError
from mobile_sam.training.run import train_run
from mobile_sam.training.start import new_learner, training_set
from tests.conftest import DISTIL_ONLY, TWO_STAGES, equal_states, same_samples

Make = Callable[..., RunConfig]


def weights(config: RunConfig, stage: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(RunPaths(config).checkpoint(normalise(config)[stage]))["learner"]


@pytest.mark.parametrize("teacher", ["stored", "online"])
def test_only_stages_that_distil_read_them(teacher: str, tiny: Make, unlabelled: Path) -> None:
    common = {"num_epochs": 4, "stage_schedule": TWO_STAGES, "teacher": teacher}
    config = tiny(**common, unlabelled_img_dir=str(unlabelled))
    plain = tiny(**common, run_name="plain")
    for stage, length in zip(normalise(config), (15, 10), strict=True):
        samples, before = training_set(config, stage), training_set(plain, stage)
        assert (len(samples), len(before)) == (length, 10)
        assert all(same_samples(samples[i], before[i]) for i in range(10))
    distilled = training_set(config, normalise(config)[0])
    assert distilled.record(12).path.parent == unlabelled
    if teacher == "stored":
        assert distilled[12].teacher["neck"].any()


def test_a_stage_learns_from_them(tiny: Make, unlabelled: Path) -> None:
    common = {"use_distill": True, "loss_weights": DISTIL_ONLY, "batch_size": 5, "val_images": 0}
    found = []
    for name, more in (("with", {"unlabelled_img_dir": str(unlabelled)}), ("without", {})):
        config = tiny(**common, **more, run_name=name)
        train_run(config)
        found.append(checkpoint.load(RunPaths(config).checkpoint(normalise(config)[0])))
    assert [content["step"] for content in found] == [3, 2]
    assert not equal_states(found[0]["learner"], found[1]["learner"])


def test_answers_are_compared_for_several_prompts_of_an_image(tiny: Make, unlabelled: Path) -> None:
    losses = {"mse": 0, "cosine": 0, "mask_bce": 1}
    common = {"use_distill": True, "loss_weights": DISTIL_ONLY, "objects_per_image": 3}
    common |= {"unlabelled_img_dir": str(unlabelled)}
    answers, features = tiny(**common, distill_losses=losses), tiny(**common, run_name="features")
    shapes = [
        [tuple(training_set(config, normalise(config)[0])[i].points.shape) for i in (0, 14)]
        for config in (answers, features)
    ]
    assert shapes == [[(3, 2, 2)] * 2, [(1, 2, 2)] * 2]


def test_a_loss_that_is_not_finite_names_images_without_masks_too(
    tiny: Make, unlabelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Learner.forward
    monkeypatch.setattr(
        Learner,
        "forward",
        lambda self, batch: {name: loss / 0 for name, loss in forward(self, batch).items()},
    )
    config = tiny(
        use_distill=True,
        loss_weights=DISTIL_ONLY,
        batch_size=15,
        unlabelled_img_dir=str(unlabelled),
    )
    with pytest.raises(NotFiniteError) as caught:
        train_run(config)
    named = [f"scene_0000{number}" for number in range(10)]
    assert all(str(caught.value).count(name) == (2 if i < 5 else 1) for i, name in enumerate(named))


@pytest.mark.parametrize("clicks", ["truth", "teacher"])
def test_masks_and_answers_are_learned_from_in_one_stage(
    clicks: str, tiny: Make, unlabelled: Path
) -> None:
    """Boxes, points, masks and clicks; a batch holds images of both kinds, or of one."""
    config = tiny(
        use_distill=True,
        distill_losses={"mse": 1, "mask_bce": 1, "mask_dice": 1, "predicted_iou": 1},
        prompts={"box": 1, "point": 1, "points": 1, "mask": 1},
        prompt_rounds=3,
        clicks=clicks,
        batch_size=2,
        unlabelled_img_dir=str(unlabelled),
    )
    before = new_learner(config, normalise(config)[0], torch.device("cpu")).state_dict()
    train_run(config)
    after = weights(config, 0)
    assert after.keys() == before.keys()
    assert not equal_states(after, before)
    assert all(torch.isfinite(value).all() for value in after.values())
