"""Features of teachers from the stores and from the teachers themselves."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mobile_sam.config.run import RunConfig
from mobile_sam.config.schedule import normalise
from mobile_sam.config.teachers import teacher_configs
from mobile_sam.data.sampling.dataset import Sample, collate
from mobile_sam.models.build import build_sam_model
from mobile_sam.models.weights import to_original
from mobile_sam.paths import RunPaths
from mobile_sam.training import checkpoint
from mobile_sam.training.run import train_run
from mobile_sam.training.setup import new_training_module, state_key, training_set
from mobile_sam.training.teacher import online_features
from tests.helpers.equality import equal_states
from tests.helpers.runs import DISTIL_ONLY, TWO_STAGES
from tests.helpers.training_processes import end_in_last_stage, train

Make = Callable[..., RunConfig]
DISTIL = {"use_distill": True, "loss_weights": DISTIL_ONLY, "val_images": 0}
ONLINE: dict[str, Any] = {**DISTIL, "teacher_features": "online"}


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


TWO: dict[str, Any] = {
    "extra_teachers": [
        {"checkpoint": "random", "model_type": "tiny_sam", "feature_level": ["neck", 2]},
        {"checkpoint": "random", "model_type": "tiny_teacher_vit", "feature_level": 1},
    ]
}


def first_sample(config: RunConfig) -> Sample:
    (stage,) = normalise(config)
    return training_set(config, stage)[0]


def test_a_sample_has_the_features_of_all_teachers(tiny: Make) -> None:
    """Each teacher's own, stored as online, under names of its own."""
    stored, online = tiny(run_name="stored", **DISTIL, **TWO), tiny(**ONLINE, **TWO)
    (stage,) = normalise(online)
    sample = first_sample(stored)
    look = online_features(online, stage, torch.device("cpu"))
    seen = look(collate([sample._replace(teacher={})])).teacher
    names = ["neck", "teacher1_neck", "teacher1_block_2", "teacher2_block_1"]
    assert list(sample.teacher) == list(seen) == names
    for name in names:
        assert torch.allclose(sample.teacher[name].float(), seen[name][0], rtol=2e-3, atol=2e-3)
    for teacher, name in zip(teacher_configs(online), [names[0], *names[2:]], strict=True):
        look = online_features(teacher, stage, torch.device("cpu"))
        alone = look(collate([sample])).teacher
        assert torch.equal(alone[name.split("_", 1)[-1]], seen[name])


def test_several_teachers_teach_the_same_online_and_stored(tiny: Make) -> None:
    stored = losses(tiny(run_name="stored", **DISTIL, **TWO, num_epochs=3))
    online = losses(tiny(run_name="online", **ONLINE, **TWO, num_epochs=3))
    assert stored == pytest.approx(online, rel=2e-3)
    assert online[-1] < online[0]
    assert stored != losses(tiny(run_name="one", **DISTIL, num_epochs=3))


def test_the_module_has_a_projection_for_each_block_in_all_stages(tiny: Make) -> None:
    stages: list[dict[str, object]]
    stages = [{**TWO_STAGES[0], "end_epoch": 1}, {"start_epoch": 1, "end_epoch": 2}]
    late = [{"start_epoch": 0, "end_epoch": 1}, {**stages[0], "start_epoch": 1, "end_epoch": 2}]
    for name, schedule in (("early", stages), ("late", late)):
        config = tiny(run_name=name, num_epochs=2, stage_schedule=schedule, **TWO)
        train_run(config)
        for stage in normalise(config):
            module = checkpoint.load(RunPaths(config).checkpoint(stage))["learner"]
            shapes = {n: tuple(w.shape) for n, w in module.items() if "projections" in n}
            projections = {n.split(".")[2]: s for n, s in shapes.items() if n.endswith("weight")}
            assert projections == {
                "teacher1_block_2": (32, 32, 1, 1),
                "teacher2_block_1": (48, 32, 1, 1),
            }


def test_teachers_count_by_their_weights_and_share_among_their_levels(tiny: Make) -> None:
    more = [
        {"checkpoint": "random", "model_type": "tiny_sam", "feature_level": ["neck", 2]},
        {"checkpoint": "random", "model_type": "tiny_teacher_vit", "weight": 0.5},
    ]
    config = tiny(extra_teachers=more, distill_losses={"mask_bce": 1.0}, **ONLINE)
    (stage,) = normalise(config)
    module = new_training_module(config, stage, torch.device("cpu"))
    shares = {"neck": 0.4, "teacher1_neck": 0.2, "teacher1_block_2": 0.2, "teacher2_neck": 0.2}
    assert module.distiller.shares == pytest.approx(shares)
    decoders = {decoder.name: decoder.share for decoder in module.decoders}
    answers = {"neck": 0.4, "teacher1_neck": 0.4, "teacher2_neck": 0.2}
    assert decoders == pytest.approx(answers)
    look = online_features(config, stage, torch.device("cpu"))
    batch = look(collate([training_set(config, stage)[0]]))
    module.eval()
    whole, parts = module(batch)["distill_mask_bce"], []
    for decoder in module.decoders:
        module.decoders = (decoder,)
        parts.append(module(batch)["distill_mask_bce"])
    assert min(parts) > 0
    assert torch.allclose(torch.stack(parts).sum(0), whole)


@pytest.mark.parametrize("number", [0, 1])
def test_a_state_belongs_to_the_weights_of_every_teacher(
    number: int, tiny: Make, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{i}.pt" for i in range(2)]
    for path in paths:
        torch.save(to_original(build_sam_model("tiny_teacher_vit", 64)), path)
    config = tiny(
        teacher_checkpoint=str(paths[0]),
        extra_teachers=[{"checkpoint": str(paths[1]), "model_type": "tiny_teacher_vit"}],
        **ONLINE,
    )
    (stage,) = normalise(config)
    before = state_key(config, stage, RunPaths(config).index, None)
    torch.save(to_original(build_sam_model("tiny_teacher_vit", 64, seed=9)), paths[number])
    assert state_key(config, stage, RunPaths(config).index, None) != before


def test_killed_with_two_teachers_ends_in_the_same_weights(tiny: Make) -> None:
    common = {**DISTIL, **TWO, "num_epochs": 8, "save_every_minutes": 0}
    undisturbed, killed = tiny(run_name="undisturbed", **common), tiny(run_name="killed", **common)
    train_run(undisturbed)
    end_in_last_stage(killed, signal.SIGKILL, epoch=2)
    assert "resuming at epoch" in train(killed)
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
    assert plain.read_features is not None
    mirrored = 0
    for position in range(len(samples)):
        sample = samples[position]
        mirrored += not torch.equal(
            sample.teacher["neck"], plain.read_features(plain.record(position), "identity")["neck"]
        )
        seen = look(collate([sample])).teacher["neck"][0]
        assert torch.allclose(sample.teacher["neck"].float(), seen, rtol=2e-3, atol=2e-3)
    assert 0 < mirrored < len(samples)
