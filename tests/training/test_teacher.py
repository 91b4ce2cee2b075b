"""Teacher features from the store and from the teacher itself."""

import signal
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

from mobile_sam.config import RunConfig
from mobile_sam.data.dataset import collate
from mobile_sam.layout import RunPaths
from mobile_sam.schedule import normalise
from mobile_sam.training import checkpoint
from mobile_sam.training.run import train_run
from mobile_sam.training.start import training_set
from mobile_sam.training.teacher import online_features
from tests.conftest import DISTIL_ONLY, equal_states
from tests.training.processes import end_in_last_stage, train

Make = Callable[..., RunConfig]
DISTIL = {"use_distill": True, "loss_weights": DISTIL_ONLY, "val_images": 0}
ONLINE: dict[str, Any] = {**DISTIL, "teacher": "online"}


def losses(config: RunConfig) -> list[float]:
    train_run(config)
    (stage,) = normalise(config)
    return pd.read_csv(RunPaths(config).metrics(stage))["distillation"].tolist()


def content(config: RunConfig) -> dict[str, Any]:
    (stage,) = normalise(config)
    return checkpoint.load(RunPaths(config).checkpoint(stage))


@pytest.mark.parametrize("level", ["neck", ["neck", 1]])
def test_online_and_stored_features_teach_the_same(level: object, tiny: Make) -> None:
    """Float16 is all that lies between them."""
    common = {"distill_feature_level": level, "num_epochs": 3}
    stored = losses(tiny(run_name="stored", **DISTIL, **common))
    online = losses(tiny(run_name="online", **ONLINE, **common))
    assert stored == pytest.approx(online, rel=2e-3)
    assert stored != online
    assert online[-1] < online[0]


def test_a_list_of_one_level_is_that_level(tiny: Make) -> None:
    one, listed = (
        tiny(run_name=f"{i}", distill_feature_level=level, **DISTIL)
        for i, level in enumerate((1, [1]))
    )
    assert one.distill_feature_level == listed.distill_feature_level == 1
    assert losses(one) == losses(listed)


def test_online_needs_no_store_and_keeps_no_teacher(tiny: Make) -> None:
    config = tiny(**ONLINE)
    train_run(config)
    assert not RunPaths(config).features.parent.exists()
    student = {"learner." + name for name in content(config)["learner"]}
    assert not any("teacher" in name for name in student)
    stored = tiny(run_name="stored", **DISTIL)
    train_run(stored)
    assert content(config)["learner"].keys() == content(stored)["learner"].keys()


def test_two_online_runs_are_equal(tiny: Make) -> None:
    first, second = tiny(run_name="a", **ONLINE), tiny(run_name="b", num_workers=1, **ONLINE)
    for config in (first, second):
        train_run(config)
    assert equal_states(content(first)["learner"], content(second)["learner"])


def test_the_teacher_sees_mirrored_images_online_and_in_a_store_of_both_views(tiny: Make) -> None:
    flip = {"augment": {"flip": True}, "num_epochs": 2}
    views = {"feature_views": ["identity", "hflip"]}
    online = losses(tiny(run_name="a", **ONLINE, **flip))
    assert online != losses(tiny(run_name="b", **ONLINE, num_epochs=2))
    assert losses(tiny(run_name="c", **DISTIL, **flip, **views)) == pytest.approx(online, rel=2e-3)


def test_killed_online_ends_in_the_same_weights(tiny: Make) -> None:
    common = {**ONLINE, "num_epochs": 8, "save_every_minutes": 0}
    undisturbed, killed = tiny(run_name="undisturbed", **common), tiny(run_name="killed", **common)
    train_run(undisturbed)
    end_in_last_stage(killed, signal.SIGKILL, epoch=2)
    train(killed)
    assert equal_states(content(killed)["learner"], content(undisturbed)["learner"])


def test_views_are_stored_for_those_who_ask(tiny: Make) -> None:
    """`feature_views` of its own changes no weights: it is for samples that are mirrored."""
    plain = tiny(run_name="plain", **DISTIL)
    both = tiny(run_name="both", feature_views=["hflip", "identity"], **DISTIL)
    assert RunPaths(plain).features != RunPaths(both).features
    assert losses(plain) == losses(both)
    assert equal_states(content(plain)["learner"], content(both)["learner"])


def test_stored_features_of_a_mirrored_sample_are_those_of_what_the_student_sees(
    tiny: Make,
) -> None:
    views = {"feature_views": ["identity", "hflip"], "augment": {"flip": True}}
    config = tiny(run_name="stored", **DISTIL, **views)
    online = tiny(run_name="online", **ONLINE, augment={"flip": True})
    (stage,) = normalise(online)
    look = online_features(online, stage, torch.device("cpu"))
    samples, plain = training_set(config, stage), training_set(tiny(**DISTIL), stage)
    mirrored = 0
    for position in range(len(samples)):
        sample = samples[position]
        mirrored += not torch.equal(
            sample.teacher["neck"], plain.read_features(plain.record(position), "identity")["neck"]
        )
        seen = look(collate([sample])).teacher["neck"][0]
        assert torch.allclose(sample.teacher["neck"].float(), seen, rtol=2e-3, atol=2e-3)
    assert 0 < mirrored < len(samples)
