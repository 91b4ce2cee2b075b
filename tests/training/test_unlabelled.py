"""Images without masks in training: in the stages that distil, and in no other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mobile_sam.config.parsing import parse_config
from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import canonical, normalise
from mobile_sam.paths import RunPaths
from mobile_sam.system.errors import ConfigError
from mobile_sam.training import checkpoint
from mobile_sam.training.progress import NotFiniteError
from mobile_sam.training.run import train_run
from mobile_sam.training.setup import new_training_module, training_set
from mobile_sam.training.step import TrainingModule
from tests.helpers.equality import equal_states, same_samples
from tests.helpers.runs import DISTIL_ONLY, TWO_STAGES, tiny_settings

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
    forward = TrainingModule.forward
    monkeypatch.setattr(
        TrainingModule,
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
        click_target=clicks,
        batch_size=2,
        unlabelled_img_dir=str(unlabelled),
    )
    before = new_training_module(config, normalise(config)[0], torch.device("cpu")).state_dict()
    train_run(config)
    after = weights(config, 0)
    assert after.keys() == before.keys()
    assert not equal_states(after, before)
    assert all(torch.isfinite(value).all() for value in after.values())


def test_the_share_of_images_with_masks_is_set(tiny: Make, unlabelled: Path) -> None:
    """10 of 15 have masks: 5 batches of 2 and 2, in which 5 of the others are drawn twice."""
    common = {"use_distill": True, "unlabelled_img_dir": str(unlabelled), "val_images": 0}
    found = []
    for fraction in (None, 0.5):
        config = tiny(run_name=f"{fraction}", labelled_fraction=fraction, **common)
        train_run(config)
        found.append(checkpoint.load(RunPaths(config).checkpoint(normalise(config)[0])))
    assert [content["step"] for content in found] == [4, 5]
    assert not equal_states(found[0]["learner"], found[1]["learner"])


def test_an_image_that_is_drawn_again_has_other_prompts(tiny: Make, unlabelled: Path) -> None:
    config = tiny(use_distill=True, unlabelled_img_dir=str(unlabelled))
    samples = training_set(config, normalise(config)[0])
    once, again = samples.numbers(2, np.array([3, 15 + 3]))
    first, second = samples[once], samples[again]
    assert samples.record(15 + 3) == samples.record(3)
    assert once == 2 * 15 + 3
    assert torch.equal(first.image, second.image)
    assert not torch.equal(first.points, second.points)
    assert not torch.equal(first.seed, second.seed)
    assert same_samples(second, samples[again])
    (often,) = samples.numbers(2, np.array([15 * 10**6 + 3]))  # few with masks, millions without
    assert torch.equal(samples[often].image, first.image)


def test_supervision_does_not_weigh_less_for_images_without_masks(
    tiny: Make, unlabelled: Path
) -> None:
    """Metrics of one step over all images: a mean over 10 with masks, and one over all 15."""
    weights = {"focal": 2, "dice": 3, "iou": 5}
    config = tiny(
        use_distill=True,
        unlabelled_img_dir=str(unlabelled),
        batch_size=15,
        loss_weights=weights,
        lambda_coef=0.5,
        distill_losses={"mse": 7, "cosine": 0},
    )
    train_run(config)
    (row,) = pd.read_csv(RunPaths(config).metrics(normalise(config)[0])).to_dict("records")
    supervised = sum(weight * row[name] for name, weight in weights.items())
    assert row["distillation"] == pytest.approx(7 * row["distill_mse"])
    assert row["loss"] == pytest.approx(supervised + 0.5 * row["distillation"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unlabelled_img_dir": None}, "labelled_fraction: 0.5 needs an unlabelled_img_dir"),
        ({"batch_size": 1}, "labelled_fraction: 0.5 needs a batch_size of at least 2"),
        ({"use_distill": False}, "labelled_fraction: 0.5, but no stage learns from images without"),
    ],
)
def test_a_share_without_a_use_is_refused(
    changes: dict[str, object], message: str, scenes: Path, tmp_path: Path, unlabelled: Path
) -> None:
    given = {"unlabelled_img_dir": str(unlabelled), "labelled_fraction": 0.5, "use_distill": True}
    with pytest.raises(ConfigError, match=message):
        normalise(parse_config(tiny_settings(scenes, tmp_path, **given | changes), "test"))


def test_the_share_is_a_setting_of_stages_that_use_it(tiny: Make, unlabelled: Path) -> None:
    common = {"num_epochs": 4, "stage_schedule": TWO_STAGES, "unlabelled_img_dir": str(unlabelled)}
    configs = [tiny(**common, labelled_fraction=fraction) for fraction in (None, 0.5)]
    same = [len({canonical(c, normalise(c)[stage]) for c in configs}) == 1 for stage in range(2)]
    assert same == [False, True]
