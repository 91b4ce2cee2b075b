import hashlib
import json
import re
from typing import Any

import pytest

from mobile_sam.config import stage
from mobile_sam.config.parsing import parse_config
from mobile_sam.config.schedule import canonical, normalise, scale
from mobile_sam.system.errors import ConfigError
from tests.helpers.commands import ROOT
from tests.helpers.schedules import entry, run

ZERO = {"focal": 0.0, "dice": 0.0, "iou": 0.0}


def test_no_schedule_is_one_stage() -> None:
    (stage,) = normalise(run())
    assert (stage.start_epoch, stage.end_epoch, stage.directory) == (0, 10, "00_finetune")


def test_gaps_become_stages_with_the_settings_of_the_run() -> None:
    stages = normalise(
        run(
            learning_rate=0.1,
            stage_schedule=[
                entry(2, 4, distillation=True, lambda_coef=7.0, learning_rate=0.5),
                entry(6, 8, freeze={"image_encoder": True}),
            ],
        )
    )
    assert [(s.start_epoch, s.end_epoch) for s in stages] == [
        (0, 2),
        (2, 4),
        (4, 6),
        (6, 8),
        (8, 10),
    ]
    gap = stages[2]
    assert not gap.distillation
    assert gap.lambda_coef == 1.0
    assert gap.learning_rate == 0.1
    assert not stages[4].freeze.image_encoder


def test_entries_may_come_in_any_order() -> None:
    forward = [entry(0, 4, name="a"), entry(4, 10, name="b")]
    assert normalise(run(stage_schedule=forward)) == normalise(run(stage_schedule=forward[::-1]))


def test_unset_loss_weights_fall_back_to_those_of_the_run() -> None:
    config = run(
        loss_weights={"focal": 5.0, "dice": 2.0},
        stage_schedule=[entry(0, 10, loss_weights={"dice": 0.0})],
    )
    weights = normalise(config)[0].loss_weights
    assert (weights.focal, weights.dice, weights.iou) == (5.0, 0.0, 1.0)


def test_distillation_of_a_stage_wins_over_use_distill() -> None:
    config = run(use_distill=True, stage_schedule=[entry(0, 5, distillation=False)])
    assert [stage.distillation for stage in normalise(config)] == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stage_schedule": [entry(0, 6), entry(5, 10)]},
            r"stage_schedule\[1\]: start_epoch: 5 lies",
        ),
        ({"stage_schedule": [entry(3, 3)]}, r"stage_schedule\[0\]: end_epoch: 3 is not after"),
        ({"stage_schedule": [entry(0, 11)]}, r"end_epoch: 11 is past num_epochs 10"),
        ({"stage_schedule": [entry(0, 5, loss_weights=ZERO)]}, r"\[0\]: loss_weights: all are 0"),
        (
            {"teacher_checkpoint": None, "stage_schedule": [entry(0, 5, distillation=True)]},
            r"\[0\]: distillation: true, but teacher_checkpoint is null",
        ),
        ({"teacher_checkpoint": None, "use_distill": True}, "but teacher_checkpoint is null"),
        (
            {"prompts": {"box": 0, "point": 0}},
            "prompts: box, point, interior_point, points, mask are all 0",
        ),
        (
            {"freeze": dict.fromkeys(["image_encoder", "prompt_encoder", "mask_decoder"], True)},
            "all parts are frozen",
        ),
        (
            {"use_distill": True, "distill_losses": {"mse": 0, "cosine": 0}},
            "all weights of distill_losses are 0",
        ),
        (
            {"use_distill": True, "loss_weights": ZERO, "freeze": {"image_encoder": True}},
            "distillation of features trains nothing else",
        ),
    ],
)
def test_errors_name_file_entry_and_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        normalise(run(**changes), "x.json")
    assert str(caught.value).startswith("x.json")


def test_scaling_keeps_proportions_and_an_epoch_for_each_stage() -> None:
    schedule = [entry(0, 50), entry(50, 100)]
    assert scale(schedule, 100, 20, "x") == [entry(0, 10), entry(10, 20)]
    short = [entry(0, 1), entry(1, 2), entry(2, 100)]
    assert scale(short, 100, 3, "x") == [entry(0, 1), entry(1, 2), entry(2, 3)]
    late = [entry(0, 98), entry(98, 99), entry(99, 100)]
    assert scale(late, 100, 4, "x") == [entry(0, 2), entry(2, 3), entry(3, 4)]
    with pytest.raises(ConfigError, match="2 is too few for 3 stages"):
        scale(late, 100, 2, "x")


def test_canonical_is_blind_to_what_training_does_not_read() -> None:
    config = run()
    (stage,) = normalise(config)
    before = canonical(config, stage)
    for changes in ({"num_workers": 3}, {"report_examples": 1}, {"mask_threshold": 0.5}):
        changed = config.model_copy(update=changes)
        assert canonical(changed, stage) == before


def test_only_stages_that_change_colours_are_told_from_those_that_changed_them_in_the_file() -> (
    None
):
    for augment, told in (({"flip": True, "scale": 0.2}, False), ({"hue": 0.1}, True)):
        config = run(augment=augment)
        assert ("colours_change" in json.loads(canonical(config, normalise(config)[0]))) == told


def test_editing_a_later_stage_leaves_an_earlier_one_alone() -> None:
    first, second = entry(0, 5, distillation=True, loss_weights=ZERO), entry(5, 10)
    before = run(stage_schedule=[first, second])
    after = run(stage_schedule=[first, second | {"learning_rate": 0.01}], num_epochs=12)
    one, two = (normalise(config) for config in (before, after))
    assert canonical(before, one[0]) == canonical(after, two[0])
    assert canonical(before, one[1]) != canonical(after, two[1])


def test_the_number_of_epochs_counts_where_the_schedule_spans_the_run() -> None:
    one, two = (run(n, lr_scheduler_span="run", stage_schedule=[entry(0, 5)]) for n in (10, 12))
    assert canonical(one, normalise(one)[0]) != canonical(two, normalise(two)[0])


def test_canonical_is_sorted_json() -> None:
    config = run()
    text = canonical(config, normalise(config)[0])
    assert text == json.dumps(json.loads(text), sort_keys=True)


def test_finished_stages_stay_valid_with_keys_that_are_added_later() -> None:
    """Digests of the settings that the first version recorded; a change trains every stage again.

    A new key that changes them belongs to `_LATER_KEYS`.
    """
    recorded = {
        name: hashlib.sha256(canonical(config, normalise(config)[0]).encode()).hexdigest()[:16]
        for name, config in (
            ("finetune", run()),
            ("distill", run(use_distill=True, loss_weights=ZERO)),
            ("both", run(use_distill=True, prompt_rounds=2)),
        )
    }
    assert recorded == {
        "finetune": "de5f479115b26f31",
        "distill": "46eccd4a75a82b62",
        "both": "9927676ca6541e41",
    }


def test_a_later_key_is_recorded_where_it_is_not_at_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage, "_LATER_KEYS", frozenset({"prompt_rounds"}))
    recorded = [
        json.loads(canonical(config, normalise(config)[0]))["stage"].get("prompt_rounds")
        for config in (
            run(),
            run(prompt_rounds=2),
            run(prompt_rounds=2, loss_weights=ZERO, use_distill=True),
        )
    ]
    assert recorded == [None, 2, None]


def test_an_entry_has_prompt_rounds_of_its_own() -> None:
    config = run(prompt_rounds=2, stage_schedule=[entry(0, 5, prompt_rounds=3), entry(5, 10)])
    assert [stage.prompt_rounds for stage in normalise(config)] == [3, 2]


DISTIL = {"distillation": True}


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            {"augment": {"flip": True}, "stage_schedule": [entry(0, 5), entry(5, 10, **DISTIL)]},
            [
                "x.json: stage_schedule[1]: augment.flip: true, but",
                '{"flip": false}',
                'feature_views to ["identity", "hflip"]',
                'teacher_features to "online"',
            ],
        ),
        (
            {"stage_schedule": [entry(0, 5, **DISTIL, augment={"scale": 0.3})]},
            ["x.json: stage_schedule[0]: augment.scale: 0.3, but", '{"scale": 0.0}'],
        ),
        (
            {
                "feature_views": ["identity", "hflip"],
                "stage_schedule": [entry(0, 5, **DISTIL, augment={"scale": 0.3, "flip": True})],
            },
            ["augment.scale: 0.3", 'views ["identity", "hflip"]'],
        ),
        (
            {"use_distill": True, "augment": {"flip": True}},
            ["x.json: epochs 0 to 10: augment.flip: true, but"],
        ),
    ],
)
def test_geometry_that_stored_features_do_not_show_is_an_error(
    changes: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        normalise(run(**changes), "x.json")
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_distill": True, "augment": {"brightness": 0.3, "contrast": 0.2, "hue": 0.1}},
        {
            "use_distill": True,
            "augment": {"flip": True},
            "feature_views": ["identity", "hflip"],
        },
        {"augment": {"flip": True, "scale": 0.5}},  # no stage reads features
        {
            "use_distill": True,
            "teacher_features": "online",
            "augment": {"flip": True, "scale": 0.5},
        },
        {
            "augment": {"flip": True, "scale": 0.5},
            "stage_schedule": [entry(0, 5, **DISTIL, augment={}), entry(5, 10)],
        },
    ],
)
def test_other_augmentation_is_allowed(changes: dict[str, Any]) -> None:
    normalise(run(**changes))


def test_an_entry_has_augmentation_of_its_own() -> None:
    config = run(
        augment={"flip": True},
        stage_schedule=[entry(0, 5, augment={"contrast": 0.2}), entry(5, 10)],
    )
    assert [(s.augment.flip, s.augment.contrast) for s in normalise(config)] == [
        (False, 0.2),
        (True, 0.0),
    ]
    changed = run(augment={"flip": True}, stage_schedule=[entry(0, 5), entry(5, 10)])
    one, two = (normalise(c) for c in (config, changed))
    assert canonical(config, one[0]) != canonical(changed, two[0])
    assert canonical(config, one[1]) == canonical(changed, two[1])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # A mirrored image is read only where it is mirrored, and then its view must be there.
        ({}, {"feature_views": ["identity", "hflip"]}),
        ({}, {"train_img_dir_teacher_features": "elsewhere/features.zarr"}),
        ({"teacher_features": "online"}, {"teacher_features": "online", "feature_dtype": "int8"}),
    ],
    ids=["views", "place", "dtype-online"],
)
def test_what_the_result_does_not_depend_on_trains_no_stage_again(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    schedule = [entry(0, 5, **DISTIL), entry(5, 10)]
    one, two = (run(stage_schedule=schedule, **changes) for changes in (before, after))
    assert [canonical(one, s) for s in normalise(one)] == [
        canonical(two, s) for s in normalise(two)
    ]


def test_a_stored_dtype_trains_the_stages_that_distil_again() -> None:
    schedule = [entry(0, 5, **DISTIL), entry(5, 10)]
    one, two = (run(stage_schedule=schedule, feature_dtype=name) for name in ("float16", "int8"))
    first, second = ([canonical(c, stage) for stage in normalise(c)] for c in (one, two))
    assert first[0] != second[0]
    assert first[1] == second[1]


def test_settings_that_a_stage_does_not_use_do_not_train_it_again() -> None:
    plain = run()
    for changes in ({"lambda_coef": 2.0}, {"distill_losses": {"relation": 1.0}}):
        other = run(**changes)
        assert canonical(plain, normalise(plain)[0]) == canonical(other, normalise(other)[0])
    features, other = (
        run(use_distill=True, loss_weights=ZERO, prompt_rounds=rounds) for rounds in (1, 3)
    )
    assert canonical(features, normalise(features)[0]) == canonical(other, normalise(other)[0])


CONTRADICTIONS = [
    ({"val_images": 0, "use_checkpoint": "best"}, 'x.json: use_checkpoint: "best", but val_images'),
    (
        {"val_images": 0, "start_from": "best", "stage_schedule": [entry(0, 5)]},
        'x.json: epochs 5 to 10: start_from: "best", but val_images: 0',
    ),
    (
        {"val_images": 0, "stage_schedule": [entry(0, 5), entry(5, 10, start_from="best")]},
        r'stage_schedule\[1\]: start_from: "best", but val_images: 0',
    ),
    ({"use_distill": True, "lambda_coef": 0}, "x.json: epochs 0 to 10: .*lambda_coef: 0 disables"),
    (
        {"stage_schedule": [entry(0, 5, distillation=True, lambda_coef=0)]},
        r"stage_schedule\[0\]: distillation: true, but lambda_coef: 0 disables it",
    ),
    ({"click_target": "teacher"}, 'x.json: click_target: "teacher", but prompt_rounds: 1'),
    (
        {"stage_schedule": [entry(0, 5, click_target="teacher")]},
        r'stage_schedule\[0\]: click_target: "teacher", but prompt_rounds: 1',
    ),
    (
        {
            "use_distill": True,
            "distill_feature_level": ["neck", 8],
            "distill_losses": {"mse": 0, "cosine": 0, "mask_bce": 1},
        },
        "x.json: distill_feature_level: features of block 8 are stored, but no stage compares",
    ),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_named(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        normalise(run(**changes), "x.json")


def test_clicks_are_needed_in_one_stage_and_not_in_all() -> None:
    answers = {"distillation": True, "distill_losses": {"mask_bce": 1.0}, "prompt_rounds": 2}
    config = run(click_target="teacher", stage_schedule=[entry(0, 5, **answers), entry(5, 10)])
    assert [stage.prompt_rounds for stage in normalise(config)] == [2, 1]


def test_no_epoch_is_the_best_of_the_stage_before_the_first() -> None:
    normalise(run(val_images=0, start_from="best"))


def test_the_examples_of_the_docs_are_valid() -> None:
    blocks = re.findall(r"^    {\n(?:    .*\n)+", (ROOT / "docs" / "prompts.md").read_text(), re.M)
    first, second = (parse_config({"run_name": "x"} | json.loads(b), "docs") for b in blocks)
    boxes, mixed = normalise(first)
    assert (boxes.prompt_rounds, boxes.prompts.shares["point"]) == (1, 0)
    assert (mixed.prompt_rounds, mixed.prompts.shares["box"]) == (3, 2)
    colours, everything = normalise(second)
    assert not colours.augment.flip
    assert everything.augment.flip


def test_the_example_of_the_page_on_distillation_is_valid() -> None:
    (block,) = re.findall(
        r"^    {\n(?:    .*\n)+", (ROOT / "docs" / "distillation.md").read_text(), re.M
    )
    distil, finetune = normalise(parse_config({"run_name": "x"} | json.loads(block), "docs"))
    assert (distil.prompt_distillation, distil.supervised, distil.click_target) == (
        True,
        False,
        "teacher",
    )
    assert set(distil.distill_losses.nonzero("features")) == {"mse", "cosine"}
    assert (finetune.distillation, finetune.start_from) == (False, "best")


ANSWERS = {"distillation": True, "distill_losses": {"mask_bce": 1.0}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"distill_feature_level": 8, "stage_schedule": [entry(0, 5, **ANSWERS)]},
            r"stage_schedule\[0\]: distill_losses: mask_bce, .* add \"neck\" to the level 8",
        ),
        (
            {
                "click_target": "teacher",
                "prompt_rounds": 2,
                "stage_schedule": [entry(0, 5, **DISTIL)],
            },
            r'stage_schedule\[0\]: click_target: "teacher", but no teacher predicts masks',
        ),
        (
            {
                "loss_weights": ZERO,
                "prompts": {"box": 0, "point": 0},
                "stage_schedule": [entry(0, 10, **ANSWERS)],
            },
            "prompts: box, point, .* are all 0",
        ),
    ],
)
def test_what_answers_need_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        normalise(run(**changes), "x.json")


def test_answers_train_a_decoder_on_a_frozen_encoder() -> None:
    frozen = {"freeze": {"image_encoder": True}, "loss_weights": ZERO}
    (stage, _) = normalise(run(stage_schedule=[entry(0, 5, **frozen, **ANSWERS)]))
    assert stage.prompt_distillation


def test_losses_of_distillation_belong_to_the_stages_that_distil() -> None:
    schedule = [entry(0, 5, **DISTIL), entry(5, 10)]
    one = run(stage_schedule=schedule)
    two = run(stage_schedule=schedule, distill_losses={"relation": 1.0})
    first, second = ([canonical(c, stage) for stage in normalise(c)] for c in (one, two))
    assert first[0] != second[0]
    assert first[1] == second[1]


def test_start_from_belongs_to_the_stage_that_starts() -> None:
    schedule = [entry(0, 5), entry(5, 10)]
    one, two = (run(stage_schedule=schedule, start_from=kept) for kept in ("last", "best"))
    first, second = ([canonical(c, stage) for stage in normalise(c)] for c in (one, two))
    assert first[0] == second[0]
    assert first[1] != second[1]
